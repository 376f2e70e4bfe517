"""Labels each shift of a domain (`--dry-run`: what it would cost; asks nothing).

Reads data/virtual_step/<domain>.parquet without what would give the label away, data/facts of the domain and of
`labels.lexicon`, and data/prompts/<domain>.parquet: what `teacher_sees` adds to the shift, and after labelling the
agreement with the known correction. Writes data/labels/<domain>.parquet, rows without a valid answer to
data/labels/quarantine/<domain>.parquet, a second teacher's labels to data/labels/second/<domain>.parquet and
data/labels/metrics/<domain>.json; what this run did goes to .cache/labels/usage/<domain>.json, which nothing reads.
Params: labels (and api, what may be spent: it decides no label). No GPU. Seconds with the local teacher; an API with
backend openai, its address and key in OPENAI_BASE_URL and OPENAI_API_KEY.

  python -m stages.labels geography
  python -m stages.labels geography --dry-run
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import polars as pl

from .core.api.section import Api
from .core.data.facts import read_domain
from .core.data.tables import LABELS, PROMPTS, ROW, VIRTUAL_STEP, read_table, write_table
from .core.labels.agreement import agreement_of_teachers, agreement_with_corrections
from .core.labels.labeller import QUARANTINE, SHIFT, Job, Outcome
from .core.labels.section import Labels
from .core.run.errors import InputError
from .core.run.files import write_json
from .core.run.params import Section, read_sections
from .core.run.stage import parser, run

SHIFTS = Path("data/virtual_step")
CORRECTIONS = Path("data/prompts")
LABELLED = Path("data/labels")
USAGE = Path(".cache/labels/usage")
# What each choice of teacher_sees adds to the shift; the true correction is only ever shown on purpose.
SHOWN = {"shift": (), "shift_and_prompt": ("prompt",), "truth": ("prompt", "answer", "target")}


class Sections(Section):
    """What this stage reads of params.yaml."""

    labels: Labels
    api: Api


def job_of(domain: str, sections: Sections) -> Job:
    """One domain's input to a teacher: only what it may see."""
    lexicon = [read_domain(name, key="labels.lexicon") for name in sections.labels.lexicon]
    facts = lexicon if domain in sections.labels.lexicon else [*lexicon, read_domain(domain)]
    path = SHIFTS / f"{domain}.parquet"
    shifts = read_table(path, VIRTUAL_STEP).select(SHIFT)
    if shifts["layer"].n_unique() > 1:
        raise InputError(f"{path}: column layer: found {shifts['layer'].unique().to_list()}, wanted one layer")
    shown = SHOWN[sections.labels.teacher_sees]
    prompts = read_table(CORRECTIONS / f"{domain}.parquet", PROMPTS).select("prompt_id", *shown) if shown else None
    return Job(domain, shifts, prompts, tuple(facts), sections.labels, sections.api)


def backend(name: str) -> ModuleType:
    """The module `stages/labellers/<name>.py`, which has estimate(job) and label(job)."""
    module = f"{__package__}.labellers.{name}"
    if importlib.util.find_spec(module) is None:
        found = sorted(path.stem for path in Path(__file__).with_name("labellers").glob("[!_]*.py"))
        raise InputError(f"params.yaml: labels.backend: found {name!r}, wanted one of {', '.join(found)}")
    return importlib.import_module(module)


def write(domain: str, outcome: Outcome) -> None:
    """Writes the outcome's tables; the labels last, so that they stand only when all the rest does."""
    write_table(LABELLED / "quarantine" / f"{domain}.parquet", outcome.quarantine, QUARANTINE)
    write_table(LABELLED / "second" / f"{domain}.parquet", outcome.second, LABELS)
    write_json(LABELLED / "metrics" / f"{domain}.json", outcome.metrics)
    write_json(USAGE / f"{domain}.json", outcome.run)
    write_table(LABELLED / f"{domain}.parquet", outcome.labels, LABELS)


def measure(domain: str, outcome: Outcome) -> None:
    """Adds agreement to the metrics. Only here, after the labels stand, are the known corrections read."""
    prompts = read_table(CORRECTIONS / f"{domain}.parquet", PROMPTS).filter(pl.col("kind") != ROW)
    outcome.metrics["teacher"] = agreement_with_corrections(outcome.labels, prompts)
    if len(outcome.second):
        outcome.metrics["second"] = agreement_with_corrections(outcome.second, prompts)
        outcome.metrics["agreement"] = agreement_of_teachers(outcome.labels, outcome.second)


def main(arguments: list[str] | None = None) -> None:
    """Labels one domain and prints one line of result."""
    line = parser(__doc__, "labels")
    line.add_argument("domain", help="one of params.yaml: domains")
    line.add_argument("--dry-run", action="store_true", help="print calls, tokens and cost; ask and write nothing")
    options = line.parse_args(arguments)
    sections = read_sections(Sections)
    teacher = backend(sections.labels.backend)
    job = job_of(options.domain, sections)
    if options.dry_run:
        print(f"{options.domain}: {sections.labels.backend}: {teacher.estimate(job)}")
        return
    outcome = teacher.label(job)
    measure(options.domain, outcome)
    write(options.domain, outcome)
    agreement = outcome.metrics["teacher"]
    print(
        f"{options.domain}: {len(outcome.labels)} labels by {sections.labels.backend}, "
        f"{len(outcome.quarantine)} quarantined, {outcome.metrics.get('cost_usd', 0):.4f} USD; known correction: "
        f"target {agreement['target_accuracy']:.3f}, answer {agreement['answer_accuracy']:.3f}, "
        f"domain {agreement['domain_accuracy']:.3f}"
    )


if __name__ == "__main__":
    run(main)
