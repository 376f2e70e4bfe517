"""metrics.json as the page sees it: estimates with intervals and chance, in groups; and how they are written out."""

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
BESIDE = ("_low", "_high", "_chance")
REASON = "no_interval"
"""How the name of a text begins that says why estimates beside it have no interval."""

Standing = Literal["above", "at", "below", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """One number of metrics.json with what stands beside it. `low`, `high`: 95 % interval."""

    name: str
    value: Number
    low: Number | None = None
    high: Number | None = None
    chance: Number | None = None

    @property
    def standing(self) -> Standing:
        """Where the interval lies against chance; "at": it includes chance, the effect is null."""
        if self.chance is None or self.low is None or self.high is None:
            return "unknown"
        return "above" if self.low > self.chance else "below" if self.high < self.chance else "at"

    def __str__(self) -> str:
        """As in a sentence: value and, in brackets, the interval."""
        return percent(self.value) + (
            "" if self.low is None or self.high is None else f" ({span(self.low, self.high)})"
        )


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


def groups_of(metrics: dict[str, Any], key: str = "") -> Iterator[Group]:
    """Every group of metrics.json that holds numbers, in its order, nested groups after the one they are in."""
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, dict | str)}
    if numbers:
        yield Group(key, {name: estimate(name, numbers) for name in numbers if not is_beside(name, numbers)})
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from groups_of(value, f"{key}.{name}".lstrip("."))


def is_beside(name: str, numbers: dict[str, Number]) -> bool:
    """Whether a number only qualifies another one: <name>_low, _high or _chance."""
    return any(name.endswith(suffix) and name.removesuffix(suffix) in numbers for suffix in BESIDE)


def estimate(name: str, numbers: dict[str, Number]) -> Estimate:
    """The number `name` with its interval and chance."""
    low, high, chance = (numbers.get(name + suffix) for suffix in BESIDE)
    return Estimate(name, numbers[name], low, high, chance)


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


def whole(value: Number) -> str:
    """A fraction as a whole percentage, for a cell of the heatmap; a wrong cell never reads 100, nor an odd one 0."""
    return f"{value * 100:.0f}" if value in (0, 1) else f"{min(99, max(1, round(value * 100)))}"


def points(low: Number, high: Number) -> str:
    """An interval of a difference, in points: it may hold zero, so its ends carry their sign."""
    return f"{signed(low)} to {signed(high)}"


def signed(value: Number) -> str:
    """A difference in points, one decimal; a minus sign that is one."""
    return f"{100 * value:.1f}".replace("-", "\u2212")


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
