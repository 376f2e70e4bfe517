"""The groups of metrics.json as the page reads them, and what each is in words and in which order (conditions.yaml)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..evaluate.estimate import Estimate, from_json
from .prose import MEASURES, entries, spaced

DECOUPLING, SHUFFLED, WITHOUT = "decoupling", "controls.shuffled_across", "without_model"
UNGATED = "_ungated"
REAL = ("decouples", "right", "alike")
"""What is expected of groups of real gradients."""
NOTICED = 0.01
"""Least share of silent reports that is spoken of."""


@dataclass(frozen=True)
class Group:
    """The estimates of one group, by name; a plain number is one too. `key` is the dotted path in metrics.json."""

    key: str
    estimates: dict[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def __contains__(self, name: object) -> bool:
        return name in self.estimates

    @property
    def reports(self) -> int | None:
        """How many reports the group counts, where it says so."""
        return int(self.estimates["reports"].value) if "reports" in self.estimates else None

    @property
    def silent(self) -> bool:
        """Whether a noticeable share of its reports says "no pressure"."""
        return "no_pressure" in self.estimates and self.estimates["no_pressure"].value > NOTICED

    @property
    def few(self) -> str:
        """Why its measures have no interval; empty where they have one, or where nothing is said."""
        return next((self.estimates[name].reason or "" for name in (*MEASURES, "all") if name in self.estimates), "")


def groups_of(metrics: dict[str, Any]) -> Iterator[Group]:
    """Every group of metrics.json that holds numbers, in its order, nested groups after the one that they are in.

    Raises:
        InputError: a leaf is neither a finite number nor an estimate; names its dotted key.
    """

    def nested(key: str, content: Mapping[str, Any]) -> Iterator[Group]:
        estimates = {name: one for name, one in content.items() if isinstance(one, Estimate)}
        if estimates:
            yield Group(key, estimates)
        for name, inner in content.items():
            if name not in estimates:
                yield from nested(f"{key}.{name}".lstrip("."), inner)

    yield from nested("", from_json(metrics))


def difference(group: Group, name: str) -> Estimate | None:
    """The paired difference of a score, real gradient minus this group, where it was measured with an interval."""
    gap = group[name].difference if name in group else None
    return None if gap is None or gap.low is None or gap.high is None else gap


@dataclass(frozen=True)
class Condition:
    """A group in words, as conditions.yaml has it. `expected`: what has to come out, a key of verdicts.yaml."""

    label: str
    given: str
    shows: str
    falsified: str
    expected: str = ""


KNOWN = {key: Condition(**entry) for key, entry in entries("conditions.yaml").items()}
PLACES = {key: place for place, key in enumerate(KNOWN)}


def condition_of(key: str) -> Condition:
    """The condition of a group; a group that conditions.yaml does not have gets its own name and no claim."""
    if key in KNOWN:
        return KNOWN[key]
    if gated := KNOWN.get(key.removesuffix(UNGATED)):
        given = f"{gated.given}; the gate is open, so that nothing is kept silent"
        return replace(gated, label=f"{gated.label}, gate open", given=given)
    name = spaced(key.rpartition(".")[2])
    if parent := next((KNOWN[known] for known in KNOWN if key.startswith(f"{known}.")), None):
        return replace(parent, label=f"{parent.label}, {name}", expected="reference")
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
    if SHUFFLED not in groups:
        return groups
    shuffled, found = groups[SHUFFLED], dict(groups)
    for key, group in groups.items():
        if condition_of(key).expected in REAL:
            bare = {name: one for name, one in group.estimates.items() if one.chance is None and name in shuffled}
            held = {name: replace(one, chance=shuffled[name].chance) for name, one in bare.items()}
            found[key] = Group(key, group.estimates | held)
    return found
