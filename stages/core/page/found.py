"""What was asked and what was found, in three sentences made from the numbers; null effects are said to be null."""

from ..evaluate.estimate import Estimate
from .conditions import DECOUPLING, condition_of
from .metrics import MEASURES, WORDS, Group, listed, percent, thousands, told

SHUFFLED = "controls.shuffled_across"
NULL_CONTROLS = "chance"


def sentences(groups: dict[str, Group], subject: str, lora: bool) -> tuple[str, str, str]:
    """The three sentences: asked, found, and what stands against it.

    Args:
        groups: by key, `decoupling` among them, with the chance that each is held against.
        subject: the model under study, as in "the pocket model".
        lora: whether there is LoRA on the verbaliser.
    """
    return asked(subject, lora), found(groups[DECOUPLING]), against(groups)


def asked(subject: str, lora: bool) -> str:
    """The question."""
    verbaliser = f"{subject}, with LoRA on the verbaliser," if lora else f"{subject} itself, its weights frozen"
    joined = " asked" if lora else " and asked"
    return (
        f"When a gradient taken on one prompt is put into slots behind another prompt (the host) of a different "
        f"domain, does {verbaliser}{joined} what pressure it feels, say in words what the gradient "
        f"would teach it, or does it talk about the prompt in front of it?"
    )


def found(group: Group) -> str:
    """The answer of the decoupling group."""
    domain, target, answer = (effect(group[name]) for name in MEASURES[:3])
    domain = domain.replace("(", "(95\u00a0% interval ", 1)
    intrusion = group["host_intrusion"]
    null = ", which is null: the interval includes zero" if intrusion.low == 0 else ""
    count = "" if group.reports is None else f"{thousands(group.reports)} "
    return (
        f"In {count}reports on test gradients the gradient's domain is named in {domain}, "
        f"the target that it moves toward in {target} and the answer that it moves away from in {answer}; "
        f"the host's domain is named instead in {told(intrusion)}{null}."
    )


def effect(estimate: Estimate) -> str:
    """The estimate, and that it is null where its interval includes chance."""
    if estimate.standing in ("above", "unknown"):
        return told(estimate)
    assert estimate.chance is not None
    if estimate.standing == "below":
        return f"{told(estimate)} (below chance, {percent(estimate.chance)})"
    return f"{told(estimate)} (null: the interval includes chance, {percent(estimate.chance)})"


def against(groups: dict[str, Group]) -> str:
    """Controls, held-out targets, direction and the probe, as far as they were measured."""
    clauses = [nulls(groups), held_out(groups), swapped(groups), read_otherwise(groups)]
    said = [clause for clause in clauses if clause]
    if not said:
        return "No control was scored, so nothing on this page says what the reports would be without the gradient."
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def nulls(groups: dict[str, Group]) -> str:
    """Which of the controls that have to be at chance are; those of too few entities show nothing."""
    controls = [group for group in groups.values() if condition_of(group.key).expected == NULL_CONTROLS]
    few = [label(group.key) for group in controls if group.few]
    if few:
        return f"of too few entities to say whether they are at chance are {listed(few)}"
    if not controls:
        return ""
    above = {group.key: leaks(group) for group in controls}
    fine = [label(key) for key, measures in above.items() if not measures]
    bad = [f"{label(key)} in {listed(measures)}" for key, measures in above.items() if measures]
    if not bad:
        return f"of {len(controls)} controls that have to be at chance all are: {listed(fine)}"
    which = f": {listed(fine)}" if fine else ""
    are = f"{len(fine) or 'none'} {'is' if len(fine) == 1 else 'are'}{which}"
    return f"of {len(controls)} controls that have to be at chance {are}; against the claim, above it: {listed(bad)}"


def label(key: str) -> str:
    """A condition's name inside a sentence."""
    name = condition_of(key).label
    return name[0].lower() + name[1:]


def leaks(group: Group) -> list[str]:
    """The accuracies of a control that are above chance (above zero, where chance is not known), as words."""
    found = []
    for name in MEASURES[:3]:
        if name not in group:
            continue
        one = group[name]
        if one.standing == "above" or (one.standing == "unknown" and (one.value if one.low is None else one.low) > 0):
            found.append(WORDS[name].lower())
    return found


def held_out(groups: dict[str, Group]) -> str:
    """How targets never trained on come out."""
    group = groups.get("held_out_target")
    if group is None or "target_accuracy" not in group:
        return ""
    said = f"a target that training never had as one is named in {effect(group['target_accuracy'])}"
    strict = groups.get("held_out_entity")
    if strict is None or "target_accuracy" not in strict:
        return said
    return f"{said}, and one that no training label names in any place in {effect(strict['target_accuracy'])}"


def swapped(groups: dict[str, Group]) -> str:
    """Whether the sign flip swaps the report."""
    group = groups.get("controls.sign_flipped")
    if group is None or "target_accuracy" not in group:
        return ""
    estimate = group["target_accuracy"]
    if estimate.standing == "at":
        return f"flipping the gradient's sign does not swap the report: {effect(estimate)}"
    return f"flipping the gradient's sign swaps the report in {effect(estimate)}"


def read_otherwise(groups: dict[str, Group]) -> str:
    """What a linear probe and the untrained lens read from the same gradients, the lens also of held-out targets."""
    said = []
    for key, about in (
        ("ceiling", "a linear probe on the same gradients reads the target in"),
        ("floor", "the lens, untrained, in"),
        ("floor.held_out_target", "and of targets never trained on in"),
    ):
        if key in groups and "target_accuracy" in groups[key]:
            said.append(f"{about} {percent(groups[key]['target_accuracy'].value)}")
    return ", ".join(said)
