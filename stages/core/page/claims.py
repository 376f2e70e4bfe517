"""What the page says of the numbers: a verdict on each condition, the claims about several, the findings at the top.

Each is an entry of verdicts.yaml, claims.yaml or findings.yaml: a rule (does it hold?) and the words. This module
compares the numbers and evaluates the rules; the functions here are the names that rules and words can use.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jinja2

from ..evaluate.estimate import Estimate
from .groups import DECOUPLING, NOTICED, Group, condition_of, difference, named
from .prose import ACCURACIES, WORDS, entries, environment, listed, one_line

Groups = dict[str, Group]
Way = Literal["lower", "higher", "null", "unknown"]
Rests = Literal["no", "yes", "unknown"]
WAYS: dict[str, Way] = {"lower": "lower", "higher": "higher", "same": "null"}
"""Names in rules and words, and the way of the scores that they stand for."""
KEPT = 0.5
"""Least part of a difference that has to be left among reports that speak; else it rests mostly on silence."""


@dataclass(frozen=True)
class Score:
    """One score of a group, compared with that of the reports on real gradients.

    `key`, `name`: of the group and of the score. `real`: the score on real gradients. `gap`: the paired difference,
    real minus own, where it has an interval. `way`: where own lies against real. `rests`: whether it is lower only
    because reports are silent ("unknown": too few speak).
    """

    key: str
    name: str
    own: Estimate
    real: Estimate | None
    gap: Estimate | None
    way: Way
    rests: Rests

    @property
    def word(self) -> str:
        """The score's name inside a sentence."""
        return WORDS[self.name].lower()


@dataclass(frozen=True)
class Verdict:
    """What the numbers say. `holds`: None where there is nothing to hold."""

    holds: bool | None
    text: str


@dataclass(frozen=True)
class Claim(Verdict):
    """A claim about several conditions. `falsified`: what would speak against the claim."""

    label: str
    falsified: str


@dataclass(frozen=True)
class Read:
    """What a reference reads of the gradients of the group `place`; `scores`: those with a paired difference."""

    place: str
    group: Group
    scores: list[Score]


def verdict(group: Group, real: Group) -> Verdict:
    """Whether the group came out as its condition needs it. `real`: the reports on the real gradients."""
    nothing, rule = Verdict(None, ""), "few" if group.few else condition_of(group.key).expected
    if rule not in entries("verdicts.yaml"):
        return nothing
    entry = entries("verdicts.yaml")[rule]
    scores = [compare(group, real, name) for name in entry.get("scores", ACCURACIES) if name in group]
    against = entry.get("against")
    if against == "real":
        scores = [one for one in scores if one.way != "unknown"]
    unknown = against == "chance" and any(one.own.standing == "unknown" for one in scores)
    if against and (unknown or not scores):
        return nothing
    above = [one for one in scores if one.own.standing == "above"]
    found = {"above": above, "null": [one for one in scores if one not in above]}
    found |= {name: [one for one in scores if one.way == where] for name, where in WAYS.items()}
    return Verdict(*said("verdicts.yaml", rule, group=group, real=real, scores=scores, **found))


def claims(groups: Groups) -> list[Claim]:
    """The claims of claims.yaml whose numbers there are, in its order."""
    found = []
    for key, entry in entries("claims.yaml").items():
        if has(groups, entry["needs"]):
            group = groups[entry["needs"] if entry["needs"] in groups else entry["needs"].rpartition(".")[0]]
            holds, text = said("claims.yaml", key, groups=groups, group=group, claim=entry)
            found.append(Claim(holds, text, entry["label"], entry["falsified"]))
    return found


def findings(groups: Groups, subject: str, card: Mapping[str, Any]) -> dict[str, str]:
    """The paragraphs at the top of the page: asked, found, named, checked.

    Args:
        groups: by key, `decoupling` among them, with the chance that each is held against.
        subject: the model under study, as in "the pocket model".
        card: of the projector.
    """
    found = {}
    for key, entry in entries("findings.yaml").items():
        _, text = said("findings.yaml", key, groups=groups, subject=subject, card=card)
        found[key] = text or entry["otherwise"]
    return found


@cache
def sentences() -> jinja2.Environment:
    """What rules and words are written in: the functions of this module, and words.j2."""
    made = environment(html=False)
    made.filters["named"] = named
    rules = (at_chance, below, beyond_silence, has, lower_targets, read_by, silenced)
    made.globals |= {one.__name__: one for one in rules}
    made.globals["words"] = made.get_template("words.j2").module
    return made


def said(file: str, key: str, **names: Any) -> tuple[bool | None, str]:
    """Whether the rule of an entry holds, and its text."""
    entry = entries(file)[key]
    holds = sentences().compile_expression(entry.get("holds", "none"))(**names)
    text = sentences().from_string(entry["says"]).render(**names, holds=holds)
    return None if holds is None else bool(holds), one_line(text)


def compare(group: Group, real: Group, name: str) -> Score:
    """One score against the real gradient's: by pairs where there are any, or else by whether intervals lie apart."""
    own, there, gap = group[name], real.estimates.get(name), difference(group, name)
    if gap is not None:
        assert gap.low is not None and gap.high is not None
        where: Way = "null" if gap.low <= 0 <= gap.high else "lower" if gap.value > 0 else "higher"
    elif own.low is None or there is None or there.low is None:
        where = "unknown"
    else:
        where = "lower" if below(own, there) else "higher" if below(there, own) else "null"
    silent = "reports_spoken" in group and silenced(group, real)
    rest: Rests = rests(own, there, gap) if there is not None and silent else "no"
    return Score(group.key, name, own, there, gap, where, rest)


def rests(own: Estimate, real: Estimate, gap: Estimate | None) -> Rests:
    """Whether a score is lower than the real gradient's only because reports are silent; "unknown": too few speak.

    It is, where the reports that speak are not clearly below the real ones that do, or by less than KEPT of the
    difference of all.
    """
    if own.spoken is None or own.spoken.low is None or real.spoken is None:
        return "unknown"
    whole, left = real.value - own.value if gap is None else gap.value, real.spoken.value - own.spoken.value
    return "no" if below(own.spoken, real.spoken) and left >= KEPT * whole else "yes"


def silenced(group: Group, real: Group) -> bool:
    """Whether noticeably more of the group's reports are silent than of the real gradient's."""
    if "no_pressure" not in group or "no_pressure" not in real:
        return False
    return group["no_pressure"].value > real["no_pressure"].value + NOTICED


def has(groups: Groups, key: str) -> bool:
    """Whether a group, or a number of one, is there."""
    parent, _, name = key.rpartition(".")
    return key in groups or (parent in groups and name in groups[parent])


def below(here: Estimate, there: Estimate) -> bool:
    """Whether one interval lies wholly below another."""
    return here.high is not None and there.low is not None and here.high < there.low


def beyond_silence(lower: Iterable[Score]) -> bool | None:
    """Whether one of the lower scores is lower for more than silence; None: too few speak to tell."""
    found = {one.rests for one in lower}
    return True if "no" in found else None if "unknown" in found else False


def read_by(groups: Groups, reference: str, places: Iterable[str]) -> list[Read]:
    """What a reference reads of the gradients of each of these groups, as far as it was measured."""
    found = []
    for place in places:
        group = groups.get(reference if place == DECOUPLING else f"{reference}.{place}")
        if group is not None:
            scores = [compare(group, group, name) for name in ACCURACIES if difference(group, name)]
            found.append(Read(place, group, scores))
    return found


def lower_targets(groups: Groups) -> list[Score]:
    """The target accuracies that are lower than the real gradient's, but for controls that have to be at chance."""
    tried = [one for one in groups.values() if "target_accuracy" in one and condition_of(one.key).expected != "chance"]
    scores = [compare(one, groups[DECOUPLING], "target_accuracy") for one in tried]
    return [one for one in scores if one.way == "lower"]


def at_chance(groups: Groups) -> dict[str, list[str]]:
    """The controls that have to be at chance (at zero, where chance is not known), by name.

    "few": of too few entities to tell; "fine": at chance; "above": above chance, and in what.
    """
    found: dict[str, list[str]] = {"few": [], "fine": [], "above": []}
    for group in groups.values():
        if condition_of(group.key).expected != "chance":
            continue
        scores = {name: group[name] for name in ACCURACIES if name in group}
        leaks = [
            WORDS[name].lower()
            for name, one in scores.items()
            if (one.value > 0 if one.low is None else one.low > (one.chance or 0))
        ]
        if group.few:
            found["few"].append(named(group.key))
        elif leaks:
            found["above"].append(f"{named(group.key)} in {listed(leaks)}")
        else:
            found["fine"].append(named(group.key))
    return found
