"""Claims that no condition makes: a sentence each, made from its group of metrics.json; null effects are said to be."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from stages.core.page.conditions import DECOUPLING
from stages.core.page.metrics import Estimate, Group, Standing, bare, percent, span, thousands
from stages.core.page.verdicts import clearly_below

GUESSED_STRENGTH = 0.5
"""Chance to name the strength rightly: two words, asked for equally often."""
UPDATE, VECTOR = "update_direction_", "steering_vector_"
SAYING_NOTHING = {"malformed": "can't be read as a report", "no_pressure": "say that there is no pressure"}

Found = tuple[str, bool | None]
"""The sentence, and whether the claim holds; None where there is nothing to hold."""


@dataclass(frozen=True)
class Claim:
    """What was measured, in one sentence, and what would falsify it."""

    label: str
    text: str
    holds: bool | None
    falsified: str


def detection(group: Group) -> Found:
    """Whether a pressure is reported where there is one, and none where there is none."""
    rate, alarms, tried = (group[name] for name in ("rate", "false_alarms", "sham_reports"))
    wrong = thousands(alarms.value) if alarms.value else "none"
    holds = None if rate.low is None else rate.low > alarms.value / tried.value
    null = ", which is null: shams are reported as often" if holds is False else ""
    return (
        f"A pressure is reported of {rate} of real gradients and in {wrong} of "
        f"{thousands(tried.value)} reports on {thousands(group['shams'].value)} distinct shams, of kinds that training "
        f"never saw{null}; the confidence, a probability, differs from the share that is right by "
        f"{100 * group['calibration_error'].value:.1f} points on average (expected calibration error)."
    ), holds


def usable(group: Group) -> Found:
    """How many reports on real gradients say nothing."""
    count = "" if group.reports is None else f"{thousands(group.reports)} "
    parts = [f"{percent(group[name].value)} {about}" for name, about in SAYING_NOTHING.items() if name in group]
    said = " and ".join(parts) or "it was not measured how many say nothing"
    return f"Of {count}reports on real gradients, after hosts of another domain, {said}; these count as wrong.", None


def strength(group: Group) -> Found:
    """Whether small and large gradients are told apart."""
    right = replace(group["accuracy"], chance=GUESSED_STRENGTH)
    return (
        f"Of gradients scaled to a third and to three times the usual norm {beside_chance(right)} are called weak "
        f"and strong as they should be{null_at(right.standing)}."
    ), above(right.standing)


def options(group: Group) -> Found:
    """The five-way choice by log-probability."""
    right, margin = group["accuracy"], group["margin"]
    ends = "" if margin.low is None or margin.high is None else f" ({margin.low:.1f} to {margin.high:.1f})"
    null = ", which is null: the interval includes zero" if margin.low is not None and margin.low <= 0 else ""
    return (
        f"Of five targets, scored one by one, the right one gains most log-probability in {beside_chance(right)}"
        f"{null_at(right.standing)}, and {margin.value:.1f} nats{ends} more than the other four on average{null}; what "
        f"a sham of the same norm and an unrelated gradient bring is subtracted."
    ), above(right.standing)


def circularity(group: Group) -> Found:
    """Whether reports say what the gradient does, or what the teacher would have said of it."""
    count = thousands(group["gradients"].value)
    if "says_correction" not in group:
        return (
            f"The teacher's label is off for {count} gradients: nothing can be said.",
            None,
        )
    known, label = group["says_correction"], group["says_label"]
    holds = None if known.low is None else clearly_below(label, known)
    if holds is None:
        null = "; these are of too few targets for an interval, so nothing follows"
    else:
        null = "" if holds or clearly_below(known, label) else "; the intervals overlap, so the difference is null"
    return (
        f"Where the teacher's own label names another target than the known correction ({count} gradients), reports "
        f"name the known one in {known} and the label's in {label}{null}."
    ), holds


def steering(group: Group) -> Found:
    """Whether a gradient is a steering vector by another name."""
    if "cosine" not in group:
        return "No test gradient has training prompts of both its entities: nothing can be said.", None
    sizes = [name.removeprefix(UPDATE) for name in group.estimates if name.startswith(UPDATE)]
    shares = [
        f"{percent(group[UPDATE + size].value)} and {percent(group[VECTOR + size].value)} at a step of {size}"
        for size in sizes
    ]
    return (
        f"Over {thousands(group['rows'].value)} gradients the update direction and the steering vector from answer to "
        f"target have a mean cosine of {group['cosine'].value:.2f}; a step along the one and along the other makes the "
        f"target the next word in {', in '.join(shares)} (in units of the residual norm)."
    ), None


def beside_chance(one: Estimate) -> str:
    """The estimate with its interval and chance."""
    ends = "" if one.low is None or one.high is None else f"{span(one.low, one.high)}; "
    return str(one) if one.chance is None else f"{percent(one.value)} ({ends}chance {bare(one.chance)})"


def null_at(standing: Standing) -> str:
    """That a score is null, where its interval does not lie above chance."""
    return "" if standing in ("above", "unknown") else ", which is null: the interval is not above chance"


def above(standing: Standing) -> bool | None:
    """Whether a score that has to be above chance is."""
    return None if standing == "unknown" else standing == "above"


MADE: dict[str, tuple[str, Callable[[Group], Found], str]] = {
    "detection": ("Detection", detection, "Pressure reported of shams about as often as of real gradients."),
    DECOUPLING: ("Reports that say nothing", usable, "Many of either kind: the scores would speak of few reports."),
    "strength": ("Strength", strength, "An interval that includes chance: direction is read and size is not."),
    "options": (
        "Choice of five",
        options,
        "An interval that includes chance: the reports' words hang on the decoding.",
    ),
    "circularity": (
        "Circularity",
        circularity,
        "The label's target named as often as the known one: reports would repeat the teacher's mistakes.",
    ),
    "steering": (
        "Steering vectors",
        steering,
        "A cosine near one and the same success at every step: a gradient would be a steering vector by another name.",
    ),
}


def claims(groups: dict[str, Group]) -> list[Claim]:
    """The claims of the groups that there are."""
    found = []
    for key, (label, make, falsified) in MADE.items():
        if key in groups:
            text, holds = make(groups[key])
            found.append(Claim(label, text, holds, falsified))
    return found
