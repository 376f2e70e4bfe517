"""Claims that hold reports against what writes none: lens, probe and retrieval, on the same gradients, by group."""

from ..evaluate.estimate import Estimate
from .conditions import DECOUPLING
from .gaps import difference, sized, way
from .metrics import MEASURES, WORDS, Group, listed, percent, points, thousands, told

ACCURACIES = MEASURES[:3]
WHERE = {
    DECOUPLING: "where all was seen",
    "held_out_target": "with a target never trained on",
    "held_out_relation": "with a relation never trained on",
}
ARE = {"lower": "better", "higher": "worse", "null": "no different"}
"""By where a reference lies against the reports: what the reports are."""

Found = tuple[str, bool | None]
"""The sentence, and whether the claim holds; None where there is nothing to hold."""


def lens(groups: dict[str, Group]) -> Found:
    """What the untrained lens names as well as the reports, or better, and where the projector wins."""
    read = {where: groups.get(key_of("floor", where)) for where in WHERE}
    named = [
        f"in {told(group['target_accuracy'])} {WHERE[where]}"
        for where, group in read.items()
        if group is not None and "target_accuracy" in group
    ]
    said, holds = against(groups, "floor", list(WHERE))
    clauses = [f"The lens, which nothing trained, names the target {listed(named)}", said, flipped(groups)]
    return f"{'; '.join(filter(None, [*clauses, speaks(groups)]))}.", holds


def taught(groups: dict[str, Group]) -> Found:
    """The references that were taught the known corrections."""
    clauses = []
    for reference, about in (("ceiling", "the linear probe"), ("retrieval", "the nearest training gradient")):
        if reference in groups:
            said, _ = against(groups, reference, [DECOUPLING, "held_out_target"])
            clauses.append(f"against {about}, {said}")
    text = "; ".join([*clauses, "neither can name a target that it was not taught"])
    return f"{text[0].upper()}{text[1:]}.", None


def key_of(reference: str, where: str) -> str:
    """The key of what a reference reads of a group's gradients."""
    return reference if where == DECOUPLING else f"{reference}.{where}"


def against(groups: dict[str, Group], reference: str, places: list[str]) -> Found:
    """In which measures reports are better, worse, or neither, on the same gradients, place by place.

    It holds where they are better in some measure and worse in none; without a paired difference nothing does.
    """
    clauses, ways = [], []
    for where in places:
        read = groups.get(key_of(reference, where))
        gaps = {} if read is None else {name: difference(read, name) for name in ACCURACIES}
        known = {name: gap for name, gap in gaps.items() if gap is not None}
        parts = []
        for direction, word in ARE.items():
            sizes = [f"{WORDS[name].lower()} ({size(gap)})" for name, gap in known.items() if way(gap) == direction]
            parts += [f"{word} in {listed(sizes)}"] if sizes else []
        clauses += [f"{', '.join(parts)} {WHERE[where]}"] if parts else []
        ways += [way(gap) for gap in known.values()]
    if not ways:
        return "what reports name beyond it was not measured with an interval", None
    return f"on the same gradients reports are {'; '.join(clauses)}", "lower" in ways and "higher" not in ways


def size(gap: Estimate) -> str:
    """A paired difference without its sign; with it where it is null."""
    assert gap.low is not None and gap.high is not None
    if way(gap) == "null":
        return f"null, {points(gap.low, gap.high)} points"
    return ", ".join(sized(gap))


def flipped(groups: dict[str, Group]) -> str:
    """The target of the flipped gradient, which for the lens, the same on both signs, is what it names as answer."""
    reports, floor = groups.get("controls.sign_flipped"), groups["floor"]
    if reports is None or "target_accuracy" not in reports or "answer_accuracy" not in floor:
        return ""
    return (
        f"with the sign flipped reports name what is then the target in {percent(reports['target_accuracy'].value)}, "
        f"the lens in {percent(floor['answer_accuracy'].value)}"
    )


def speaks(groups: dict[str, Group]) -> str:
    """That the lens is never silent."""
    if "detection" not in groups:
        return ""
    alarms, tried = (groups["detection"][name].value for name in ("false_alarms", "sham_reports"))
    silent = f"all but {thousands(alarms)} of" if alarms else "all"
    return f"and it names something of every vector, while {silent} {thousands(tried)} reports on shams name nothing"
