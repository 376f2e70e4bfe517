"""The headline numbers of each seed of the projector, beside those of all together."""

from dataclasses import dataclass, replace

from ..evaluate.estimate import Number
from .metrics import Group, bare, thousands

# Words of a row -> group and number of all seeds together (empty: not measured), and the number of one seed.
ROWS: dict[str, tuple[str, str, str]] = {
    "Domain": ("decoupling", "domain_accuracy", "decoupling_domain_accuracy"),
    "Target": ("decoupling", "target_accuracy", "decoupling_target_accuracy"),
    "Answer": ("decoupling", "answer_accuracy", "decoupling_answer_accuracy"),
    "Host intrusion": ("decoupling", "host_intrusion", "decoupling_host_intrusion"),
    "Held-out target": ("held_out_target", "target_accuracy", "held_out_target_target_accuracy"),
    "Sign flip, target": ("controls.sign_flipped", "target_accuracy", "sign_flipped_target_accuracy"),
    "Sign flip, both words": ("", "", "sign_flipped_both_words"),
    "Detection": ("detection", "rate", "detection_rate"),
    "False alarms": ("detection", "false_alarms", "false_alarms"),
    "Strength": ("strength", "accuracy", "strength_accuracy"),
}
COUNTS = {"false_alarms": "sham_reports"}
"""Numbers that are counts, and the count that each is out of."""


@dataclass(frozen=True)
class Cell:
    """One number and how it is written out; `low`, `high`: of its interval, or the `reason` why there is none."""

    value: Number
    text: str
    low: Number | None = None
    high: Number | None = None
    reason: str = ""


@dataclass(frozen=True)
class Seeded:
    """A row: what was counted, for each seed (None: not measured), and for all together."""

    label: str
    seeds: list[Cell | None]
    pooled: Cell | None


def by_seed(seeds: dict[str, dict[str, Number]], groups: dict[str, Group]) -> list[Seeded]:
    """The rows of which at least one seed has the number."""
    found = []
    for label, (key, name, own) in ROWS.items():
        values = [cell(own, numbers) for numbers in seeds.values()]
        if any(values):
            estimates = groups[key].estimates if key in groups else {}
            pooled = cell(name, {one: estimate.value for one, estimate in estimates.items()})
            if pooled is not None:
                one = estimates[name]
                pooled = replace(pooled, low=one.low, high=one.high, reason=one.reason or "")
            found.append(Seeded(label, values, pooled))
    return found


def cell(name: str, numbers: dict[str, Number]) -> Cell | None:
    """A share without the sign, or a count and what it is out of."""
    if name not in numbers:
        return None
    if name not in COUNTS:
        return Cell(numbers[name], bare(numbers[name]))
    return Cell(numbers[name], f"{thousands(numbers[name])} of {thousands(numbers[COUNTS[name]])}")
