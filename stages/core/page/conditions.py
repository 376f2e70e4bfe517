"""The conditions of the page: what each group of metrics.json is in words (conditions.yaml), and their order."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .metrics import Group
from .prose import entries

DECOUPLING, SHUFFLED, WITHOUT = "decoupling", "controls.shuffled_across", "without_model"
REFERENCES = (WITHOUT, "ceiling", "floor", "retrieval")
"""What writes no report and reads the same gradients; one level below, by group, those that are held out too."""
UNGATED = "_ungated"


@dataclass(frozen=True)
class Condition:
    """A group in words, as conditions.yaml has it. `expected`: what has to come out, a key of verdicts.yaml."""

    label: str
    given: str = ""
    shows: str = ""
    falsified: str = ""
    expected: str = ""


KNOWN = {key: Condition(**entry) for key, entry in entries("conditions.yaml").items()}
PLACES = {key: place for place, key in enumerate(KNOWN)}


def condition_of(key: str) -> Condition:
    """The condition of a group; a group that conditions.yaml does not have gets its own name and no claim."""
    if key in KNOWN:
        return KNOWN[key]
    if (gated := KNOWN.get(key.removesuffix(UNGATED))) is not None:
        given = f"{gated.given}; the gate is open, so that nothing is kept silent"
        return replace(gated, label=f"{gated.label}, gate open", given=given)
    name = key.rpartition(".")[2].replace("_", " ")
    parent = next((known for known in KNOWN if key.startswith(f"{known}.")), None)
    if parent is not None:
        return replace(KNOWN[parent], label=f"{KNOWN[parent].label}, {name}", expected="reference")
    return Condition(name.capitalize(), "Not described on this page yet", "Its numbers only.", "Not stated yet.")


def named(key: str) -> str:
    """The name of a group's condition inside a sentence."""
    label = condition_of(key).label
    return label[0].lower() + label[1:]


def place_of(key: str) -> int:
    """Where a group stands among others; those that are not known come last."""
    return PLACES.get(key.removesuffix(UNGATED), len(PLACES))


def ordered(groups: Iterable[Group]) -> dict[str, Group]:
    """The groups by key, in the order of conditions.yaml."""
    return {group.key: group for group in sorted(groups, key=lambda group: place_of(group.key))}


def held_against_chance(groups: dict[str, Group]) -> dict[str, Group]:
    """The groups; scores of real gradients that have no chance get that of gradients shuffled across domains."""
    shuffled = groups.get(SHUFFLED)

    def against(group: Group) -> Group:
        if shuffled is None or condition_of(group.key).expected not in ("decouples", "right", "alike"):
            return group
        estimates: dict[str, Any] = {
            name: replace(one, chance=shuffled[name].chance) if one.chance is None and name in shuffled else one
            for name, one in group.estimates.items()
        }
        return replace(group, estimates=estimates)

    return {key: against(group) for key, group in groups.items()}
