"""The groups of metrics.json as the page reads them, paired differences, and how numbers are written out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..evaluate.estimate import Estimate, Number, from_json

MEASURES = ("domain_accuracy", "target_accuracy", "answer_accuracy", "host_intrusion")
WORDS = {
    "domain_accuracy": "Domain",
    "target_accuracy": "Target",
    "answer_accuracy": "Answer",
    "host_intrusion": "Host intrusion",
}
ACCURACIES = MEASURES[:3]
Way = Literal["lower", "higher", "null", "unknown"]
NOTICED = 0.01
"""Least share of silent reports that is spoken of."""


@dataclass(frozen=True)
class Group:
    """The estimates of one group, by name; a plain number is one too. `key` is the dotted path in metrics.json."""

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
        return next((self.estimates[name].reason or "" for name in (*MEASURES, "all") if name in self.estimates), "")


def groups_of(metrics: dict[str, Any]) -> Iterator[Group]:
    """Every group of metrics.json that holds numbers, in its order, nested groups after the one that they are in.

    Raises:
        ValueError: a leaf is neither a finite number nor an estimate; names its dotted key.
    """

    def nested(key: str, content: Mapping[str, Any]) -> Iterator[Group]:
        estimates = {name: one for name, one in content.items() if isinstance(one, Estimate)}
        if estimates:
            yield Group(key, estimates)
        for name, inner in content.items():
            if name not in estimates:
                yield from nested(f"{key}.{name}".lstrip("."), inner)

    yield from nested("", from_json(metrics))


def difference(group: Group, name: str) -> Estimate | None:
    """The paired difference of a score, real gradient minus this group, where it was measured with an interval."""
    gap = group[name].difference if name in group else None
    return None if gap is None or gap.low is None or gap.high is None else gap


def way(gap: Estimate) -> Way:
    """Where a group lies against the real gradient, from the paired difference (real minus group)."""
    assert gap.low is not None and gap.high is not None
    return "null" if gap.low <= 0 <= gap.high else "lower" if gap.value > 0 else "higher"


def told(estimate: Estimate, why: bool = True) -> str:
    """An estimate in a sentence: value and, in brackets, its interval or (if `why`) the reason why it has none."""
    beside = interval(estimate) or (why and estimate.reason)
    return percent(estimate.value) + (f" ({beside})" if beside else "")


def in_points(estimate: Estimate) -> str:
    """A distance between fractions in a sentence, in points: value and its interval or the reason why it has none."""
    beside = interval(estimate) or estimate.reason
    return f"{100 * estimate.value:.1f} points" + (f" ({beside})" if beside else "")


def interval(estimate: Estimate) -> str:
    """The interval of an estimate, in percent without the sign; empty where it has none."""
    return "" if estimate.low is None or estimate.high is None else span(estimate.low, estimate.high)


def apart(gap: Estimate) -> str:
    """How far a group is from the real gradient, from the paired difference (real minus group)."""
    assert gap.low is not None and gap.high is not None
    where = way(gap)
    if where == "null":
        return f"null ({points(-gap.high, -gap.low)} points)"
    return f"{bare(abs(gap.value))} points {where} ({unsigned(gap)})"


def size(gap: Estimate) -> str:
    """How far reports are from a reference, from the paired difference; with its sign only where it is null."""
    assert gap.low is not None and gap.high is not None
    if way(gap) == "null":
        return f"null, {points(gap.low, gap.high)} points"
    return f"{bare(abs(gap.value))} points, {unsigned(gap)}"


def unsigned(gap: Estimate) -> str:
    """The interval of a paired difference that does not include zero, in points without the sign."""
    assert gap.low is not None and gap.high is not None
    return span(*sorted((abs(gap.low), abs(gap.high))))


def percent(value: Number) -> str:
    """A fraction as a percentage with one decimal, which never rounds to a 0 or 100 that it is not."""
    return f"{bare(value)}\u00a0%"


def bare(value: Number) -> str:
    """A fraction as `percent` writes it, without the percent sign; a share explained may be below 0."""
    if value < 0:
        return signed(value)
    if value in (0, 1):
        return f"{value * 100:.0f}"
    if value > 0.9995 or value < 0.0005:
        return "> 99.9" if value > 0.5 else "< 0.1"
    return f"{value * 100:.1f}"


def thousands(number: Number) -> str:
    """A number with a narrow no-break space between thousands: 1 234 567."""
    return f"{number:,}".replace(",", "\u202f")


def counted(number: Number) -> str:
    """A count in a sentence: "none" for 0."""
    return thousands(number) if number else "none"


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
    """Words as a list in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
