"""Claims that no condition makes: a sentence each, made from groups of metrics.json; null effects are said to be."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..evaluate.estimate import Estimate, Standing
from .beside import Found, lens, taught
from .conditions import DECOUPLING, condition_of
from .gaps import clearly_below, compared
from .metrics import Group, at_most, bare, listed, percent, span, thousands, told
from .silence import rests

GUESSED_STRENGTH = 0.5
"""Chance to name the strength rightly: two words, asked for equally often."""
UPDATE, VECTOR = "update_direction_", "steering_vector_"
SAYING_NOTHING = {
    "malformed": "can't be read as a report",
    "no_pressure": "say that there is no pressure",
    "vague": "tell of a pressure but of no known entity or no known domain",
}
FACTORS = {
    "much_weaker": ("a ninth", "weak"),
    "weaker": ("a third", "weak"),
    "stronger": ("three times", "strong"),
    "much_stronger": ("nine times", "strong"),
}
"""Conditions of known strength: the norm in units of the reference norm, and what it is rightly called."""
Groups = dict[str, Group]


@dataclass(frozen=True)
class Claim:
    """What was measured, in one sentence, and what would falsify it."""

    label: str
    text: str
    holds: bool | None
    falsified: str


def detection(groups: Groups) -> Found:
    """Whether a pressure is reported where there is one, and none where there is none."""
    group = groups["detection"]
    rate, alarms, tried, bound = (group[name] for name in ("rate", "false_alarms", "sham_reports", "false_alarms_high"))
    wrong = thousands(alarms.value) if alarms.value else "none"
    holds = None if rate.low is None else rate.low > bound.value
    null = ", which is null: shams may be reported as often" if holds is False else ""
    reported = group["shams_reported"].value
    some = f"{thousands(reported) if reported else 'none'} of these shams {'are' if reported > 1 else 'is'}"
    return (
        f"A pressure is reported of {told(rate)} of real gradients and in {wrong} of "
        f"{thousands(tried.value)} reports on {thousands(group['shams'].value)} distinct shams, of kinds that training "
        f"never saw; {some} reported by any projector, so that of such shams at most "
        f"{at_most(bound.value)} are (95\u00a0%){null}."
    ), holds


def calibration(groups: Groups) -> Found:
    """How far the confidence is from the share that is right."""
    known = [key for key in groups if "calibration_error" in groups[key] and key not in ("detection", DECOUPLING)]
    worst = max(known, key=lambda key: groups[key]["calibration_error"].value, default=None)
    real = groups[DECOUPLING]["calibration_error"]
    parts = [f"{in_points(real)} on gradients after hosts of another domain"]
    if worst is not None:
        error = groups[worst]["calibration_error"]
        parts.append(f"{in_points(error)} in the worst group ({named(worst)})")
    if "detection" in groups:
        error = groups["detection"]["calibration_error"]
        parts.append(f"{in_points(error)} on those gradients and shams together, most of which are shams")
    return (
        f"The confidence, a probability that the target named is right, differs from the share that is right by "
        f"{listed(parts)} (expected calibration error)."
    ), None


def in_points(error: Estimate) -> str:
    """A calibration error with its interval or why there is none."""
    beside = error.reason if error.low is None or error.high is None else span(error.low, error.high)
    return f"{100 * error.value:.1f} points" + (f" ({beside})" if beside else "")


def named(key: str) -> str:
    """A condition inside a sentence."""
    name = condition_of(key).label
    return name[0].lower() + name[1:]


def usable(groups: Groups) -> Found:
    """How many reports on real gradients say nothing."""
    group = groups[DECOUPLING]
    count = "" if group.reports is None else f"{thousands(group.reports)} "
    parts = [f"{percent(group[name].value)} {about}" for name, about in SAYING_NOTHING.items() if name in group]
    said = listed(parts) or "it was not measured how many say nothing"
    return (
        f"Of {count}reports on real gradients, after hosts of another domain, {said}; what they do not name counts as "
        f"wrong."
    ), None


def abstention(groups: Groups) -> Found:
    """What is lower than the real gradient mostly because the gate keeps it silent."""
    real, name = groups[DECOUPLING], "target_accuracy"
    lower = [
        one
        for one in groups.values()
        if name in one and condition_of(one.key).expected != "chance" and compared(one, real, name) == "lower"
    ]
    resting = [one for one in lower if rests(one, real, name) == "yes"]
    few = [named(one.key) for one in lower if rests(one, real, name) == "unknown"]
    said = [
        f"{named(one.key)} ({percent(one[name].value)} of all, {percent(spoken.value)} of those that "
        f"speak, {percent(one['no_pressure'].value)} silent)"
        for one in resting
        if (spoken := one[name].spoken)
    ]
    text = (
        f"More because reports are silent than because those that speak are wrong, the target is named less often "
        f"than where all was seen for {listed(said)}: such a difference rests on abstention"
        if said
        else "No target accuracy is lower than that of real gradients mostly because reports are silent"
    )
    return f"{text}{f'; too few speak to tell more for {listed(few)}' if few else ''}.", None


def strength(groups: Groups) -> Found:
    """Whether small and large gradients are told apart."""
    right = replace(groups["strength"]["accuracy"], chance=GUESSED_STRENGTH)
    scaled = {words: groups[f"strength.{name}"] for name, words in FACTORS.items() if f"strength.{name}" in groups}
    each = [f"{told(group['accuracy'])} called {word} at {factor}" for (factor, word), group in scaled.items()]
    return (
        f"Of gradients scaled to a third and to three times the usual norm {beside_chance(right)} are called weak "
        f"and strong as they should be{null_at(right.standing)}{f'; of each by itself {listed(each)}' if each else ''}."
    ), above(right.standing)


def natural(groups: Groups) -> Found:
    """What the word is worth on gradients as they are."""
    group = groups["strength.natural"]
    right = replace(group["accuracy"], chance=GUESSED_STRENGTH)
    return (
        f"Gradients of the norms that they have by nature lie close to the reference, where weak passes into strong: "
        f"half of them within a factor of {math.exp(group['median_apart'].value):.2f} of it, "
        f"{percent(group['share_further'].value)} further than any in training; the word is right for "
        f"{beside_chance(right)}{null_at(right.standing)}."
    ), above(right.standing)


def options(groups: Groups) -> Found:
    """The five-way choice by log-probability."""
    group = groups["options"]
    right, margin = group["accuracy"], group["margin"]
    ends = "" if margin.low is None or margin.high is None else f" ({margin.low:.1f} to {margin.high:.1f})"
    null = ", which is null: the interval includes zero" if margin.low is not None and margin.low <= 0 else ""
    return (
        f"Of five targets, scored one by one, the right one gains most log-probability in {beside_chance(right)}"
        f"{null_at(right.standing)}, and {margin.value:.1f} nats{ends} more than the other four, on average over "
        f"gradients and the projector's seeds{null}; a gain is what the gradient brings a report beyond an unrelated "
        f"one of another domain and of the same norm at each layer, so that what a sham of that norm brings cancels."
    ), above(right.standing)


def circularity(groups: Groups) -> Found:
    """Whether reports say what the gradient does, or what the teacher would have said of it."""
    group = groups["circularity"]
    count = thousands(group["gradients"].value)
    if "says_correction" not in group:
        return f"The teacher's label is off for {count} gradients: nothing can be said.", None
    known, label = group["says_correction"], group["says_label"]
    holds = None if known.low is None else clearly_below(label, known)
    if holds is None:
        null = "; these are of too few targets for an interval, so nothing follows"
        null += f" ({known.reason})" if known.reason else ""
        known, label = replace(known, reason=None), replace(label, reason=None)
    else:
        null = "" if holds or clearly_below(known, label) else "; the intervals overlap, so the difference is null"
    return (
        f"Where the teacher's own label names another target than the known correction ({count} gradients), reports "
        f"name the known one in {told(known)} and the label's in {told(label)}{null}."
    ), holds


def steering(groups: Groups) -> Found:
    """Whether a gradient is a steering vector by another name."""
    group = groups["steering"]
    if "cosine" not in group:
        return "No test gradient has training prompts of both its entities: nothing can be said.", None
    sizes = [name.removeprefix(UPDATE) for name in group.estimates if name.startswith(UPDATE)]
    shares = [f"{told(group[UPDATE + size])} and {told(group[VECTOR + size])} at a step of {size}" for size in sizes]
    cosine = group["cosine"]
    ends = "" if cosine.low is None or cosine.high is None else f" ({cosine.low:.2f} to {cosine.high:.2f})"
    return (
        f"Over {thousands(group['rows'].value)} gradients the update direction and the steering vector from answer to "
        f"target have a mean cosine of {cosine.value:.2f}{ends}; a step along the one and along the other makes the "
        f"target the next word in {', in '.join(shares)} (in units of the residual norm)."
    ), None


def beside_chance(one: Estimate) -> str:
    """The estimate with its interval and chance."""
    ends = "" if one.low is None or one.high is None else f"{span(one.low, one.high)}; "
    return told(one) if one.chance is None else f"{percent(one.value)} ({ends}chance {bare(one.chance)})"


def null_at(standing: Standing) -> str:
    """That a score is null, where its interval does not lie above chance."""
    return "" if standing in ("above", "unknown") else ", which is null: the interval is not above chance"


def above(standing: Standing) -> bool | None:
    """Whether a score that has to be above chance is."""
    return None if standing == "unknown" else standing == "above"


MADE: dict[str, tuple[str, Callable[[Groups], Found], str]] = {
    "Detection": ("detection", detection, "Pressure reported of shams about as often as of real gradients."),
    "Calibration": (
        f"{DECOUPLING}.calibration_error",
        calibration,
        "An error of many points: the confidence could not be read as a probability.",
    ),
    "Reports that say nothing": (
        DECOUPLING,
        usable,
        "Many of any kind: the scores would speak of few reports.",
    ),
    "Abstention": (
        f"{DECOUPLING}.no_pressure",
        abstention,
        "A claim of a difference that goes away among the reports that speak: the gate would be making it.",
    ),
    "Strength": ("strength", strength, "An interval that includes chance: direction is read and size is not."),
    "Strength by nature": (
        "strength.natural",
        natural,
        "An interval that includes chance: of gradients as they are, the word would say nothing.",
    ),
    "Untrained lens": (
        "floor",
        lens,
        "Reports worse than the lens in some measure: there the projector loses what no training reads.",
    ),
    "Probe and retrieval": (
        "ceiling",
        taught,
        "Reports no better than either on targets never trained on: they would be recalling.",
    ),
    "Choice of five": (
        "options",
        options,
        "An interval that includes chance: the reports' words hang on the decoding.",
    ),
    "Circularity": (
        "circularity",
        circularity,
        "The label's target named as often as the known one: reports would repeat the teacher's mistakes.",
    ),
    "Steering vectors": (
        "steering",
        steering,
        "A cosine near one and the same success at every step: a gradient would be a steering vector by another name.",
    ),
}
"""By label: the group, or the number of one, that has to be there; its sentence; what would falsify it."""


def there(key: str, groups: Groups) -> bool:
    """Whether a group, or a number of one, is there."""
    parent, _, name = key.rpartition(".")
    return key in groups or (parent in groups and name in groups[parent])


def claims(groups: Groups) -> list[Claim]:
    """The claims of the groups that there are."""
    found = []
    for label, (key, make, falsified) in MADE.items():
        if there(key, groups):
            text, holds = make(groups)
            found.append(Claim(label, text, holds, falsified))
    return found
