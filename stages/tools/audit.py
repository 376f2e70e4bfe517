"""Audits fine-tuning data: what training on each row would teach the model, in the model's own words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from jinja2 import TemplateError

from ..core.data.updates import TEXT, Update, read_updates
from ..core.engine.samples import BadRowsError, Sample, check_samples
from ..core.engine.updates import update_gradients
from ..core.grounding.reported import reports_of
from ..core.reader.reader import Reader
from ..core.run.errors import InputError
from ..core.run.stage import progress
from .reading import check_letters, open_reader, quiet
from .table_page import check_output, write_rows
from .template import filled_in

ROWS = 512
"""Rows that are read together."""


def audit(data: str, output: Path, ascent: bool = False, rare: float = 0.05, keep_going: bool = False) -> str:
    """What a terminal shows of an audit, whose rows go to `output` and its page to the same name with .html.

    A row pulls elsewhere if its report names a domain that less than the share `rare` of all rows with a readable
    report name. `ascent`: see `read_updates`. `keep_going`: leaves out rows that are refused, and lists them.

    Raises:
        InputError: the data, a row of it, or the name of the output is wrong, no row is left, or no model is there.
    """
    check_output(output)
    refused: list[str] = []

    def refuse(error: InputError) -> None:
        if not keep_going:
            raise InputError(f"{error} (--keep-going leaves out such rows, and lists them)") from error
        refused.append(str(error))

    updates, rows, parts = read_updates(data, ascent, refuse), [], []
    with quiet():
        reader, _, settings = open_reader()
        for update in updates:
            try:
                rows.append((update, terms_of(reader, update)))
            except (InputError, TemplateError) as error:
                reason = error.reason if isinstance(error, BadRowsError) else error
                refuse(InputError(f"{data}:{update.line}: {reason}"))
        if not rows:
            raise InputError(f"{data}: all {len(refused)} rows were refused, the first: {refused[0]}")
        with progress("rows", len(rows)) as advance:
            for start in range(0, len(rows), ROWS):
                parts.append(told(reader, rows[start : start + ROWS], settings.evaluation.report_tokens))
                advance(len(parts[-1]))
    table = pl.concat(parts)
    spoken = table.filter(pl.col("domain") != "")
    values = {
        "data": data,
        "output": output.name,
        "rare": rare,
        "refused": refused,
        "rows": len(table),
        "spoken": len(spoken),
        "updates": Counter(table["update"]).most_common(),
        **{name: Counter(spoken[name]).most_common() for name in ("domain", "toward")},
        "elsewhere": spoken.filter(pl.len().over("domain") < rare * len(spoken)).to_dicts(),
    }
    write_rows(table, output, "audit.html.j2", values)
    return filled_in("audit.txt.j2", **values)


def terms_of(reader: Reader, update: Update) -> list[Sample]:
    """A sample a completion: it follows a text as it stands, and a conversation where the chat template has it.

    Without a template turns are joined by line breaks. The end of a turn is no part of what is taught.

    Raises:
        InputError: a sample has no loss (see `check_samples`) or letters that the tokenizer lacks.
        TemplateError: the chat template has no place for these turns.
    """
    decoder, tokenizer, prompt = reader.decoder, reader.decoder.tokenizer, update.prompt
    assert tokenizer is not None
    chat = tokenizer.chat_template is not None and prompt[0].role != TEXT
    text = "".join(turn.content if turn.role == TEXT else f"{turn.content}\n" for turn in prompt)
    if chat:
        turns = [turn.model_dump() for turn in prompt]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before = tokenizer.encode(text, add_special_tokens=False) if chat else decoder.tokens(text)
    terms = []
    for completion in update.completions:
        check_letters(reader, f"{text} {completion}", "text")
        joined = [] if chat else decoder.tokens(text + completion)
        apart = tokenizer.encode(completion, add_special_tokens=False)
        terms.append(Sample(tuple(before), tuple(joined[len(before) :] if joined[: len(before)] == before else apart)))
    check_samples(decoder, terms, reader.card.places)
    return terms


def told(reader: Reader, rows: Sequence[tuple[Update, Sequence[Sample]]], tokens: int) -> pl.DataFrame:
    """What the model reports of some updates, in their order, in at most `tokens` tokens; columns: docs/auditing.md.

    Raises:
        InputError: a loss or gradient is not finite; names the line.
    """
    card = reader.card
    updates, terms = zip(*rows, strict=True)
    try:
        gradient, logprob = update_gradients(reader.decoder, rows, card.layers, card.places)
    except BadRowsError as error:
        lines = [update.line for update, each in rows for _ in each]
        raise InputError(f"line {lines[error.rows[0]]}: {error.reason}") from error
    longer = [row for row, (first, *_) in enumerate(terms) if len(first.target) > len(card.places)]
    return pl.DataFrame(
        {
            "line": [update.line for update in updates],
            "kind": [update.kind for update in updates],
            "update": [update.what for update in updates],
            "prompt": [reader.decoder.text(each[0].prompt) for each in terms],
            "completion": [update.completions[0] for update in updates],
            "rejected": pl.Series([(*update.completions, None)[1] for update in updates], dtype=pl.String),
            **reports_of(reader, gradient, tokens, sentences=longer),
            "log_probability": logprob,
        }
    )
