"""What the gate keeps silent, held apart from what is read badly: a report that says nothing counts as wrong."""

from collections.abc import Sequence
from typing import Literal

from .gaps import clearly_below, difference
from .metrics import NOTICED, WORDS, Group, listed, percent, told

KEPT = 0.5
"""Least part of a difference that has to be left among reports that speak; else it rests mostly on abstention."""

Rests = Literal["no", "yes", "unknown"]


def silenced(group: Group, real: Group) -> bool:
    """Whether noticeably more of the group's reports are silent than of the real gradient's."""
    if "no_pressure" not in group or "no_pressure" not in real:
        return False
    return group["no_pressure"].value > real["no_pressure"].value + NOTICED


def rests(group: Group, real: Group, name: str) -> Rests:
    """Whether a measure is lower than the real gradient's only because reports are silent; "unknown": too few speak.

    It is, where the reports that speak are not clearly below the real ones that do, or by less than KEPT of the
    difference of all.
    """
    if not silenced(group, real) or "reports_spoken" not in group:
        return "no"
    here, there = group[name].spoken, real[name].spoken
    if here is None or here.low is None or there is None:
        return "unknown"
    gap = difference(group, name)
    whole = real[name].value - group[name].value if gap is None else gap.value
    left = there.value - here.value
    return "no" if clearly_below(here, there) and left >= KEPT * whole else "yes"


def silence(group: Group, real: Group, lower: Sequence[str]) -> str:
    """How much is silent and what the rest names, after a verdict that `lower` measures are lower; empty where no more.

    That a difference rests on abstention is said here.
    """
    if not lower or not silenced(group, real):
        return ""
    name = "target_accuracy" if "target_accuracy" in lower else lower[0]
    said = f"; silent in {percent(group['no_pressure'].value)}"
    here, there = group[name].spoken, real[name].spoken
    if here is not None and there is not None:
        said += f", of those that speak {WORDS[name].lower()} {told(here)} against {percent(there.value)}"
    found = {one: rests(group, real, one) for one in lower}
    resting = [WORDS[one].lower() for one, how in found.items() if how == "yes"]
    if resting:
        which = "" if len(resting) == len(lower) else f" in {listed(resting)}"
        return f"{said}: the difference{which} rests mostly on abstention"
    few = ": the difference rests on abstention, too few speak to tell more"
    return said + few if "unknown" in found.values() else said
