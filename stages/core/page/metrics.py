"""metrics.json as the page sees it: estimates with intervals and chance, in groups; and how they are written out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MEASURES = ("domain_accuracy", "target_accuracy", "answer_accuracy", "host_intrusion")
WORDS = {
    "domain_accuracy": "Domain",
    "target_accuracy": "Target",
    "answer_accuracy": "Answer",
    "host_intrusion": "Host intrusion",
}
Number = int | float
ENDS, CHANCE = ("_low", "_high"), "_chance"
SPOKEN = "_spoken"
"""How the name of a score ends that is over the reports alone that tell of a pressure."""
REASON = "no_interval"
"""How the name of a text begins that says why estimates beside it have no interval; it ends as theirs do."""
SUFFIXES = (SPOKEN, "_difference", "")
BARE = ("malformed", "no_pressure", "vague")
"""Shares that never have an interval."""

NOTICED = 0.01
"""Least share of silent reports that is spoken of."""

Standing = Literal["above", "at", "below", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """One number of metrics.json with what stands beside it. `low`, `high`: 95 % interval.

    `reason`: why a share has no interval, where metrics.json says so.
    """

    name: str
    value: Number
    low: Number | None = None
    high: Number | None = None
    chance: Number | None = None
    reason: str = ""

    @property
    def standing(self) -> Standing:
        """Where the interval lies against chance; "at": it includes chance, the effect is null."""
        if self.chance is None or self.low is None or self.high is None:
            return "unknown"
        return "above" if self.low > self.chance else "below" if self.high < self.chance else "at"

    def __str__(self) -> str:
        """As in a sentence: value and, in brackets, the interval, or why there is none."""
        beside = self.reason if self.low is None or self.high is None else span(self.low, self.high)
        return percent(self.value) + (f" ({beside})" if beside else "")


@dataclass(frozen=True)
class Group:
    """The numbers of one group, by name; `key` is the dotted path in metrics.json."""

    key: str
    estimates: dict[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def __contains__(self, name: object) -> bool:
        return name in self.estimates

    @property
    def reports(self) -> int | None:
        """How many reports the group counts, where it says so."""
        return int(self.estimates["reports"].value) if "reports" in self.estimates else None

    @property
    def silent(self) -> bool:
        """Whether a noticeable share of its reports says "no pressure"."""
        return "no_pressure" in self.estimates and self.estimates["no_pressure"].value > NOTICED

    @property
    def few(self) -> str:
        """Why its measures have no interval; empty where they have one, or where nothing is said."""
        return next((self.estimates[name].reason for name in MEASURES if name in self.estimates), "")


def groups_of(metrics: dict[str, Any], key: str = "") -> Iterator[Group]:
    """Every group of metrics.json that holds numbers, in its order, nested groups after the one they are in."""
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, dict | str)}
    reasons = {name: value for name, value in metrics.items() if isinstance(value, str)}
    if numbers:
        yield Group(key, {name: estimate(name, numbers, reasons) for name in numbers if not is_beside(name, numbers)})
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from groups_of(value, f"{key}.{name}".lstrip("."))


def is_beside(name: str, numbers: dict[str, Number]) -> bool:
    """Whether a number only qualifies another one: <name>_low with _high, or _chance. A bound alone is its own."""
    return (name.endswith(CHANCE) and name.removesuffix(CHANCE) in numbers) or any(
        name.endswith(end) and has_interval(name.removesuffix(end), numbers) for end in ENDS
    )


def has_interval(name: str, numbers: dict[str, Number]) -> bool:
    """Whether both ends of the number's interval are there."""
    return name in numbers and all(name + end in numbers for end in ENDS)


def estimate(name: str, numbers: dict[str, Number], reasons: dict[str, str]) -> Estimate:
    """The number `name` with its interval (a share: or the reason why it has none) and its chance."""
    low, high = (numbers[name + end] for end in ENDS) if has_interval(name, numbers) else (None, None)
    suffix = next(one for one in SUFFIXES if name.endswith(one))
    wanted = low is None and isinstance(numbers[name], float) and name not in BARE
    reason = reasons.get(REASON + suffix, "") if wanted else ""
    return Estimate(name, numbers[name], low, high, numbers.get(name + CHANCE), reason)


def percent(value: Number) -> str:
    """A fraction as a percentage with one decimal, which never rounds to a 0 or 100 that it is not."""
    return f"{bare(value)}\u00a0%"


def bare(value: Number) -> str:
    """`percent` without the sign."""
    if value in (0, 1):
        return f"{value * 100:.0f}"
    if value > 0.9995 or value < 0.0005:
        return "> 99.9" if value > 0.5 else "< 0.1"
    return f"{value * 100:.1f}"


def thousands(number: Number) -> str:
    """1 234 567, with narrow no-break spaces."""
    return f"{number:,}".replace(",", "\u202f")


def span(low: Number, high: Number) -> str:
    """An interval of percentages, without the sign; the ends round outwards only as `percent` does."""
    ends = [f"{100 * end:.0f}" if end in (0, 1) else f"{100 * end:.1f}" for end in (low, high)]
    return "\u2013".join(ends)


def at_most(bound: Number) -> str:
    """An upper bound of a fraction as a percentage with two decimals, rounded up."""
    return f"{math.ceil(round(1e4 * bound, 6)) / 100:.2f}\u00a0%"


def whole(value: Number) -> str:
    """A fraction as a whole percentage, for a cell of the heatmap; a wrong cell never reads 100, nor an odd one 0."""
    return f"{value * 100:.0f}" if value in (0, 1) else f"{min(99, max(1, round(value * 100)))}"


def points(low: Number, high: Number) -> str:
    """An interval of a difference, in points: it may hold zero, so its ends carry their sign."""
    return f"{signed(low)} to {signed(high)}"


def signed(value: Number) -> str:
    """A difference in points, one decimal; a minus sign that is one."""
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "\u2212")


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
