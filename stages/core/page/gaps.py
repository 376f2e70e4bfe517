"""Differences between two groups: paired, on the same gradients, where they were measured; else between intervals."""

from typing import Literal

from ..evaluate.estimate import Estimate
from .metrics import Group, bare, points, span

Way = Literal["lower", "higher", "null", "unknown"]
WAYS: tuple[Way, ...] = ("lower", "higher", "null")


def clearly_below(here: Estimate, there: Estimate) -> bool:
    """Whether one interval lies wholly below another."""
    return here.high is not None and there.low is not None and here.high < there.low


def difference(group: Group, name: str) -> Estimate | None:
    """The paired difference of a measure, real gradient minus this group, where it was measured with an interval."""
    gap = group[name].difference if name in group else None
    return None if gap is None or gap.low is None or gap.high is None else gap


def compared(group: Group, real: Group, name: str) -> Way:
    """Where the group's measure lies against the real gradient's: by pairs, or else by whether intervals lie apart.

    "unknown": there is no interval.
    """
    gap = difference(group, name)
    if gap is not None:
        return way(gap)
    here, there = group[name], real[name]
    if here.low is None or there.low is None:
        return "unknown"
    return "lower" if clearly_below(here, there) else "higher" if clearly_below(there, here) else "null"


def way(gap: Estimate) -> Way:
    """Which way a paired difference (real minus other) goes, seen from the other."""
    assert gap.low is not None and gap.high is not None
    return "null" if gap.low <= 0 <= gap.high else "lower" if gap.value > 0 else "higher"


def apart(gap: Estimate) -> str:
    """The same with its numbers."""
    assert gap.low is not None and gap.high is not None
    if way(gap) == "null":
        return f"null ({points(-gap.high, -gap.low)} points)"
    size, around = sized(gap)
    return f"{size} {way(gap)} ({around})"


def sized(gap: Estimate) -> tuple[str, str]:
    """How large a paired difference is, and its interval, in points and without the sign."""
    assert gap.low is not None and gap.high is not None
    low, high = sorted((abs(gap.low), abs(gap.high)))
    return f"{bare(abs(gap.value))} points", span(low, high)
