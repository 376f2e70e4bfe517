"""What the numbers say of each condition, in words; an effect whose interval includes zero is said to be null."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..evaluate.estimate import Estimate
from .conditions import DECOUPLING, Expected, condition_of
from .gaps import WAYS, Way, apart, clearly_below, compared, difference
from .metrics import MEASURES, WORDS, Group, listed, percent
from .silence import rests, silence

ACCURACIES = MEASURES[:3]


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a condition. `holds`: None where there is nothing to hold."""

    holds: bool | None
    text: str


def verdict(group: Group, real: Group) -> Verdict:
    """Whether the group came out as its claim needs it, in words; `real`: the reports on the real gradients."""
    expected = condition_of(group.key).expected
    accuracies = {name: group[name] for name in ACCURACIES if name in group}
    if group.few:
        return Verdict(None, f"Too little data: {group.few}")
    if expected == "falls" and "target_accuracy" in group:
        return falls(group, real)
    if expected in ("lower", "ceiling", "reference"):
        return against_real(group, real, expected)
    if not expected or any(one.standing == "unknown" for one in accuracies.values()):
        return Verdict(None, "")
    if expected == "chance":
        return at_chance(group, accuracies)
    wanted = {name: one for name, one in accuracies.items() if expected != "swaps" or name != "domain_accuracy"}
    null = {name: one for name, one in wanted.items() if one.standing != "above"}
    if null:
        return Verdict(False, f"Null: {valued(null)}")
    if group.key == DECOUPLING:
        return intrudes(group)
    lower = [] if expected == "swaps" else [name for name in accuracies if below(group, real, name)]
    text = f"Above chance: {valued(wanted)}{falling(group, lower)}{silence(group, real, lower)}"
    return Verdict(expected != "alike" or not lower, text)


def below(group: Group, real: Group, name: str) -> bool:
    """Whether a measure is lower than the real gradient's."""
    return compared(group, real, name) == "lower"


def falling(group: Group, lower: list[str]) -> str:
    """Which measures are lower: by how much where there are pairs."""
    gaps = {name: difference(group, name) for name in lower}
    paired = [f"{WORDS[name].lower()} {apart(gap)}" for name, gap in gaps.items() if gap is not None]
    others = [name for name, gap in gaps.items() if gap is None]
    said = f"; clearly below the first row in {names(others)}" if others else ""
    return said + (f"; on the same cases {', '.join(paired)}" if paired else "")


def at_chance(group: Group, accuracies: Mapping[str, Estimate]) -> Verdict:
    """A control that has to be at chance."""
    above = {name: one for name, one in accuracies.items() if one.standing == "above"}
    text = f"Above chance: {valued(above)}" if above else "Null, as it must be"
    if group.silent:
        text += f"; no pressure in {percent(group['no_pressure'].value)}"
    return Verdict(not above, text)


def intrudes(group: Group) -> Verdict:
    """The decoupling group, above chance: whether its host domain is named clearly less often than the gradient's."""
    intrusion = group["host_intrusion"]
    said = "null" if intrusion.low == 0 else percent(intrusion.value)
    text = f"Above chance: {valued({name: group[name] for name in ACCURACIES})}; host intrusion {said}"
    return Verdict(clearly_below(intrusion, group["domain_accuracy"]), text)


def falls(group: Group, real: Group) -> Verdict:
    """Whether the target is named clearly less often than in the decoupling group, and not by silence alone."""
    name = "target_accuracy"
    found = compared(group, real, name)
    if found == "unknown":
        return Verdict(None, "")
    fell = found == "lower"
    text = f"Target falls to {percent(group[name].value)}" if fell else "Target does not fall: only the domain is read"
    gap = difference(group, name)
    text = text if gap is None else f"{text}; on the same cases {apart(gap)}"
    lower = [name] if fell else []
    return Verdict(beyond_silence(group, real, lower), text + silence(group, real, lower))


def beyond_silence(group: Group, real: Group, lower: list[str]) -> bool | None:
    """Whether a measure is lower for more than silence; None: too few speak to tell."""
    found = [rests(group, real, name) for name in lower]
    return True if "no" in found else None if "unknown" in found else False


def against_real(group: Group, real: Group, expected: Expected) -> Verdict:
    """Where another source is lower or higher than the real gradient: paired, or else where intervals lie apart.

    `expected`: "lower" holds if an accuracy is lower, for more than silence, and none higher; "ceiling" if none is
    lower; else nothing holds.
    """
    names_of: dict[Way, list[str]] = {one: [] for one in WAYS}
    paired = []
    for name in ACCURACIES:
        found = compared(group, real, name) if name in group else "unknown"
        if found == "unknown":
            continue
        names_of[found].append(name)
        gap = difference(group, name)
        if gap is not None:
            paired.append(f"{WORDS[name].lower()} {apart(gap)}")
    if not any(names_of.values()):
        return Verdict(None, "")
    lower, higher, null = (names_of[one] for one in WAYS)
    said = paired or [f"{names(found)} {one}" for one, found in names_of.items() if found]
    overlap = " (the intervals overlap)" if null and not paired else ""
    text = f"Against the real gradient: {', '.join(said)}{overlap}{silence(group, real, lower)}"
    holds = {"lower": False if higher else beyond_silence(group, real, lower), "ceiling": not lower}.get(expected)
    return Verdict(holds, text)


def valued(estimates: Mapping[str, Estimate]) -> str:
    """Measures with their values."""
    return ", ".join(f"{WORDS[name].lower()} {percent(one.value)}" for name, one in estimates.items())


def names(measures: Iterable[str]) -> str:
    """Measures, joined as in a sentence."""
    return listed([WORDS[name].lower() for name in measures])
