"""What people do with the pipeline besides running it.

  gradaware describe "The capital of France is" --target Madrid
  gradaware audit my-data.jsonl
  gradaware diff --tuned my-model --prompts my-prompts.jsonl
  gradaware import-facts athletes.csv --domain sport --subject athlete --answer sport --add --template "..." ...
  gradaware preset qwen3-4b-instruct --apply

Run it in the repository's root; `gradaware COMMAND --help` says more.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    as_written = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(prog="gradaware", description=__doc__, formatter_class=as_written)
    commands = found.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        doc = inspect.getdoc(run) or ""
        made = commands.add_parser(name, help=doc.partition("\n")[0], description=doc, formatter_class=as_written)
        made.set_defaults(run=run)
        return made

    argument = command("describe", show_description).add_argument
    argument("prompt", metavar="PROMPT", help="a text that ends right before the answer")
    argument("--target", required=True, help="what the model should say instead")
    argument("--host", help="another prompt, in front of which the model reports; default: none")
    argument("--answer", help="what the model would say; default: what it says")
    argument(
        "--ask",
        metavar="QUESTION",
        action="append",
        default=[],
        help="a question of yours, with <felt> where the felt update goes; may be given several times",
    )
    argument("--subject", metavar="WORDS", help="words of the prompt at whose last token the gradient is read too")
    argument("--json", action="store_true", help="print everything as JSON and nothing else")

    argument = command("audit", audit).add_argument
    argument("data", metavar="DATA", help="a .jsonl or .parquet file, here or at hf://datasets/...")
    argument(
        "--output", metavar="FILE", type=Path, default=Path("audit.jsonl"), help="or .parquet; default: audit.jsonl"
    )
    argument("--unlearn", action="store_true", help="rows without reward and preference are unlearned")
    argument("--rare", metavar="SHARE", type=float, default=0.05, help="domains below it pull elsewhere; default: 0.05")
    argument("--keep-going", action="store_true", help="leave out rows that are wrong, and list them")

    comparing = command("diff", diff)
    argument = comparing.add_mutually_exclusive_group(required=True).add_argument
    argument("--tuned", metavar="MODEL", help="a folder or Hub id; or the folder of a PEFT adapter")
    argument("--vectors", metavar="FILE", type=Path, help="steering vectors: safetensors, one a block's number")
    argument("--context", metavar="TEXT", help="a text in front of every prompt")
    argument = comparing.add_argument
    argument(
        "--prompts", metavar="FILE", required=True, help=".jsonl or .parquet with the column prompt, here or with *"
    )
    argument(
        "--features", metavar="DICTIONARY", nargs="+", default=[], help="folders below data/concepts, or of the Hub"
    )
    argument("--output", metavar="FILE", type=Path, default=Path("diff.jsonl"), help="or .parquet; default: diff.jsonl")

    argument = command("import-facts", import_facts).add_argument
    argument("sources", metavar="SOURCE", nargs="+", type=Path, help="a file of facts")
    argument("--domain", metavar="NAME", required=True, help="lower case letters, digits and _")
    argument("--format", choices=("lre", "counterfact", "csv", "parquet"), help="default: worked out from the file")
    argument("--subject", metavar="COL", help="tables: the column with the subjects")
    argument("--answer", metavar="COL", help="tables: the column with the answers")
    argument("--relation", metavar="COL", help="tables: the column with the relations; default: none")
    argument(
        "--template",
        metavar="TEXT",
        action="append",
        default=[],
        help="a prompt with {subject} that ends right before the answer, in front of the source's own; "
        "give it two or three times or more; RELATION=TEXT for one relation only",
    )
    argument(
        "--kinds",
        metavar="SUBJECT,ANSWER",
        action="append",
        default=[],
        help="what subjects and answers are, one lower-case noun each, as country,city; RELATION=SUBJECT,ANSWER for "
        "one relation only; default: what the source says (LRE), or the names of the columns",
    )
    argument("--limit", metavar="N", type=int, help="at most N facts a relation, the first ones")
    argument("--plain", action="store_true", help="leave out answers that the pocket model can't write")
    argument("--credit", metavar="TEXT", help="where the facts come from; default: the file's name")
    argument("--force", action="store_true", help="overwrite data/facts/NAME.yaml if it's there")
    argument("--add", action="store_true", help="also add the domain to params.yaml and dvc.yaml")

    argument = command("preset", preset).add_argument
    argument("name", metavar="NAME", nargs="?", help="which; default: list them")
    argument("--decisive", action="store_true", help="with the decisive experiment: docs/decisive.md")
    argument("--apply", action="store_true", help="write params.yaml and dvc.yaml; default: only show")
    return found


def show_description(options: argparse.Namespace) -> None:
    """Describes one gradient: what it would do to the model, and what the model reports of it.

    Reads params.yaml, data/model, data/projector and data/facts, which `make repro` has made; without data/projector
    the raw update direction is read. Writes nothing. A GPU is used if there is one; the pocket model takes seconds.

      gradaware describe "The capital of France is" --target Madrid --host "The opera Tosca was composed by"
      gradaware describe "The capital of France is" --target Madrid --ask "The currency of <felt> is"
      gradaware describe "The capital of France is" --target Madrid --subject France
      gradaware describe "The capital of France is" --target Madrid --json > described.json
    """
    from rich.console import Console

    from .describe import describe

    found = describe(options.prompt, options.target, options.host, options.answer, options.ask, subject=options.subject)
    if options.json:
        print(found.json())
    else:
        Console(highlight=False).print(found)


def audit(options: argparse.Namespace) -> None:
    """Audits fine-tuning data: what training on each row would teach the model, in the model's own words.

    Reads DATA (prompt and completion, messages, or prompt, chosen and rejected; with rewards or without), params.yaml,
    data/model and data/projector. Writes FILE, a row a row of DATA, and beside it a page (.html). A GPU is used if
    there is one; the pocket model takes a second for some hundred rows.

      gradaware audit my-data.jsonl --output audit.parquet
    """
    from .audit import audit

    print(audit(options.data, options.output, options.unlearn, options.rare, options.keep_going), end="")


def diff(options: argparse.Namespace) -> None:
    """Compares a changed model with the model under study: what the change teaches at each prompt, in words.

    The change is a fine-tuned model, an adapter, steering vectors or a text in front; only what it predicts is used.
    Reads it, the prompts, params.yaml, data/model and data/projector. Writes FILE, a row a prompt, and beside it a page
    (.html). A GPU is used if there is one; the pocket model takes a second for some hundred prompts.

      gradaware diff --tuned my-adapter --prompts "data/prompts/*.parquet"
      gradaware diff --context "The capital of France is London ." --prompts my-prompts.jsonl --output diff.parquet
    """
    from ..core.model.changes import preceded, read_vectors, steered, tuned
    from ..core.model.opening import open_model
    from .diff import diff

    if options.tuned is not None:
        name, change = options.tuned, lambda decoder: tuned(decoder, name, lambda: open_model()[0])
    elif options.vectors is not None:
        name, change = str(options.vectors), lambda decoder: steered(decoder, read_vectors(decoder, options.vectors))
    else:
        name, change = repr(options.context), lambda decoder: preceded(decoder, options.context)
    print(diff(name, change, options.prompts, options.output, options.features), end="")


def import_facts(options: argparse.Namespace) -> None:
    """Turns facts of yours into a domain: data/facts/NAME.yaml, with what was left out and why.

    Reads LRE tables (JSON), CounterFact (JSON), CSV, TSV and Parquet with named columns; several SOURCEs make several
    relations of one domain. Writes data/facts/NAME.yaml, and with --add params.yaml and dvc.yaml. No GPU, seconds.

      gradaware import-facts painter.json --domain paintings --add
      gradaware import-facts athletes.csv --domain sport --subject athlete --answer sport --add \\
        --template "The sport of {subject} is" --template "What {subject} is known for is"
    """
    from .import_facts import Columns, import_domain, summary

    columns = Columns(options.subject, options.answer, options.relation)
    imported = import_domain(
        options.sources,
        options.domain,
        form=options.format,
        columns=columns,
        templates=options.template,
        limit=options.limit,
        plain=options.plain,
        credit=options.credit,
        force=options.force,
        add=options.add,
        kinds=options.kinds,
    )
    print(summary(imported, options.add), end="")


def preset(options: argparse.Namespace) -> None:
    """Shows, and with --apply makes, the changes to params.yaml that put a Hub model under study.

    Reads and writes params.yaml (comments stay) and dvc.yaml. No GPU, seconds. Without NAME: lists the presets.

      gradaware preset qwen3-4b-instruct
      gradaware preset qwen3-4b-instruct --apply
    """
    from .preset import list_presets, use_preset

    if options.name is None:
        list_presets()
    else:
        use_preset(options.name, options.apply, options.decisive)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command: a user's mistake is one line on stderr and exit code 1; Ctrl-C leaves all files whole."""
    options = parser().parse_args(arguments)
    from ..core.run.stage import errors_in_one_line

    with errors_in_one_line("\nstopped: every file is as it was or whole; run the same command again"):
        try:
            options.run(options)
            sys.stdout.flush()
        except BrokenPipeError:  # `gradaware ... | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


if __name__ == "__main__":
    main()
