"""Input and output of a teacher backend (`stages/labellers/<backend>.py: label(job)`)."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ..api.section import Api
from ..data.facts import Domain
from ..data.tables import LABELS, VIRTUAL_STEP
from .section import Labels

# All that a teacher may know of the virtual step: the target_* and answer_* columns would give the label away.
SHIFT = tuple(name for name in VIRTUAL_STEP if not name.startswith(("target_", "answer_")))
QUARANTINE = {
    "prompt_id": pl.String,
    "teacher": pl.String,  # the model that was asked
    "fault": pl.String,  # of the last answer, by name: stages/core/api/chat.py
    "detail": pl.String,
    "raw_answer": pl.String,
    "raw_repair": pl.String,  # "" when no repair was tried
}


@dataclass(frozen=True)
class Job:
    """One domain's shifts, and all that a teacher may know beside them."""

    domain: str
    shifts: pl.DataFrame  # the columns SHIFT, several step sizes a prompt
    prompts: pl.DataFrame | None  # prompt_id and what the param teacher_sees adds to the shift; null for "shift"
    facts: tuple[Domain, ...]  # of labels.lexicon and the domain itself
    params: Labels
    api: Api


@dataclass(frozen=True)
class Outcome:
    """One domain's labels, the rows without a valid answer, and what labelling cost."""

    labels: pl.DataFrame  # LABELS; a quarantined prompt is not among them
    quarantine: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=QUARANTINE))  # type: ignore[arg-type]
    second: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LABELS))  # type: ignore[arg-type]
    metrics: dict[str, Any] = field(default_factory=dict)  # the same for the same inputs and answers
    run: dict[str, Any] = field(default_factory=dict)  # of this run: cache hits, waiting


def by_prompt(shifts: pl.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    """The table's rows by prompt_id, in order of first occurrence; of each, smallest step size first."""
    found: dict[str, list[dict[str, Any]]] = {prompt_id: [] for prompt_id in shifts["prompt_id"]}
    for row in shifts.sort("step_size", maintain_order=True).iter_rows(named=True):
        found[row["prompt_id"]].append(row)
    return list(found.items())
