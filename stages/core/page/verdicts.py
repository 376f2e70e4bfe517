"""What the numbers say of each condition, in words; an effect whose interval includes zero is said to be null."""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.core.page.conditions import DECOUPLING, Expected, condition_of
from stages.core.page.metrics import MEASURES, WORDS, Estimate, Group, bare, listed, percent, points, span

ACCURACIES = MEASURES[:3]
WAYS = ("lower", "higher", "null")


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a condition. `holds`: None where there is nothing to hold."""

    holds: bool | None
    text: str


def verdict(group: Group, decoupling: Group) -> Verdict:
    """Whether the group came out as its claim needs it, in words."""
    expected = condition_of(group.key).expected
    accuracies = [group[name] for name in ACCURACIES if name in group]
    if expected == "falls" and "target_accuracy" in group:
        return falls(group, decoupling["target_accuracy"])
    if expected in ("lower", "ceiling", "reference"):
        return against_real(group, decoupling, expected)
    if not expected or any(one.standing == "unknown" for one in accuracies):
        return Verdict(None, "")
    if expected == "chance":
        return at_chance(group, accuracies)
    wanted = accuracies[1:] if expected == "swaps" else accuracies
    null = [one for one in wanted if one.standing != "above"]
    if null:
        return Verdict(False, f"Null: {valued(null)}")
    if group.key == DECOUPLING:
        return intrudes(group)
    lower = [one for one in accuracies if expected != "swaps" and clearly_below(one, decoupling[one.name])]
    text = f"; clearly below the first row in {names(one.name for one in lower)}" if lower else ""
    return Verdict(expected != "alike" or not lower, f"Above chance: {valued(wanted)}{text}")


def at_chance(group: Group, accuracies: list[Estimate]) -> Verdict:
    """A control that has to be at chance."""
    above = [one for one in accuracies if one.standing == "above"]
    text = f"Above chance: {valued(above)}" if above else "Null, as it must be"
    if "no_pressure" in group and group["no_pressure"].value > 0.01:
        text += f"; no pressure in {percent(group['no_pressure'].value)}"
    return Verdict(not above, text)


def intrudes(group: Group) -> Verdict:
    """The decoupling group, above chance: whether its host domain is named clearly less often than the gradient's."""
    intrusion = group["host_intrusion"]
    said = "null" if intrusion.low == 0 else percent(intrusion.value)
    text = f"Above chance: {valued(group[name] for name in ACCURACIES)}; host intrusion {said}"
    return Verdict(clearly_below(intrusion, group["domain_accuracy"]), text)


def clearly_below(here: Estimate, there: Estimate) -> bool:
    """Whether one interval lies wholly below another."""
    return here.high is not None and there.low is not None and here.high < there.low


def falls(group: Group, there: Estimate) -> Verdict:
    """Whether the target is named clearly less often than in the decoupling group."""
    here = group["target_accuracy"]
    if here.high is None or there.low is None:
        return Verdict(None, "")
    fell = clearly_below(here, there)
    text = f"Target falls to {percent(here.value)}" if fell else "Target does not fall: only the domain is read"
    gap = difference(group, "target_accuracy")
    return Verdict(fell, text if gap is None else f"{text}; on the same cases {apart(gap)}")


def against_real(group: Group, decoupling: Group, expected: Expected) -> Verdict:
    """Where another source is lower or higher than the real gradient: paired, or else where intervals lie apart.

    `expected`: "lower" holds if an accuracy is lower and none higher, "ceiling" if none is lower; else nothing holds.
    """
    names_of: dict[str, list[str]] = {one: [] for one in WAYS}
    paired = []
    for name in ACCURACIES:
        if name not in group or group[name].low is None:
            continue
        gap = difference(group, name)
        names_of[beside(group[name], decoupling[name]) if gap is None else way(gap)].append(name)
        if gap is not None:
            paired.append(f"{WORDS[name].lower()} {apart(gap)}")
    if not any(names_of.values()):
        return Verdict(None, "")
    lower, higher, null = (names_of[one] for one in WAYS)
    said = paired or [f"{names(found)} {one}" for one, found in names_of.items() if found]
    overlap = " (the intervals overlap)" if null and not paired else ""
    holds = {"lower": bool(lower) and not higher, "ceiling": not lower}.get(expected)
    return Verdict(holds, f"Against the real gradient: {', '.join(said)}{overlap}")


def difference(group: Group, name: str) -> Estimate | None:
    """The paired difference of a measure, real gradient minus this group, where it was measured with an interval."""
    gap = group.estimates.get(f"{name}_difference")
    return None if gap is None or gap.low is None or gap.high is None else gap


def way(gap: Estimate) -> str:
    """Which way a paired difference (real minus other) goes, seen from the other."""
    assert gap.low is not None and gap.high is not None
    return "null" if gap.low <= 0 <= gap.high else "lower" if gap.value > 0 else "higher"


def apart(gap: Estimate) -> str:
    """The same with its numbers."""
    assert gap.low is not None and gap.high is not None
    if way(gap) == "null":
        return f"null ({points(-gap.high, -gap.low)} points)"
    low, high = sorted((abs(gap.low), abs(gap.high)))
    return f"{bare(abs(gap.value))} points {way(gap)} ({span(low, high)})"


def beside(here: Estimate, real: Estimate) -> str:
    """The same without pairs: from whether the two intervals lie apart."""
    return "lower" if clearly_below(here, real) else "higher" if clearly_below(real, here) else "null"


def valued(estimates: Iterable[Estimate]) -> str:
    """Measures with their values."""
    return ", ".join(f"{WORDS[one.name].lower()} {percent(one.value)}" for one in estimates)


def names(measures: Iterable[str]) -> str:
    """Measures, joined as in a sentence."""
    return listed([WORDS[name].lower() for name in measures])
