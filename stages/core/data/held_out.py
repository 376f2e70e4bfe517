"""Section `held_out` of params.yaml, and its names: those that no slot, no report and no training label holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..run.errors import InputError
from ..run.params import Name, Section, Share
from ..run.seeds import keyed_fraction
from .facts import Domain, World


class HeldOut(Section):
    """What never stands in a slot or in a report in training, of the pocket model's own and of projectors.

    `names`: share of the answers. `kinds`: kinds of answers that are held out whole. `subjects`: share of the subjects
    whose prompts no projector is trained on.
    """

    names: Share
    kinds: list[Name]
    subjects: Share
    seed: int


def held(settings: HeldOut, name: str, kind: str) -> str | None:
    """Why an answer of this kind is held out: "kind", "name", or None where it is not.

    The name's own hash decides, the same for every domain, relation and row.
    """
    if kind in settings.kinds:
        return "kind"
    return "name" if keyed_fraction(settings.seed, "held out", name) < settings.names else None


@dataclass(frozen=True)
class Held:
    """What is held out of a world.

    Attributes:
        names: answers that are held out: a keyed share of all, and every one of a held-out kind.
        closed: the names that no training row may put into a slot: the held-out ones, and every name of a relation
            that has a held-out kind as its subject or answer, which would give the kind away.
    """

    names: frozenset[str]
    closed: frozenset[str]


def hold_out(domains: Sequence[Domain], settings: HeldOut) -> Held:
    """The held-out names of these domains.

    Raises:
        InputError: a kind that is to be held out answers no relation.
    """
    world = World.of(domains)
    for kind in settings.kinds:
        if kind not in world.domains:
            raise InputError(
                f"params.yaml: held_out.kinds: found {kind!r}, wanted kinds of answers: {', '.join(world.domains)}"
            )
    names = frozenset(name for name in world.lexicon if held(settings, name, world.kinds[name]))
    return Held(names, names.union(*(closed_names(domain, settings) for domain in domains)))


def closed_names(domain: Domain, settings: HeldOut) -> set[str]:
    """The domain's answers that are held out, and all names of its relations that touch a held-out kind."""
    found = set()
    for relation in domain.relations.values():
        touched = not {relation.subject, relation.answer}.isdisjoint(settings.kinds)
        for fact in relation.facts:
            if touched:
                found |= {fact.subject, fact.answer}
            elif held(settings, fact.answer, relation.answer):
                found.add(fact.answer)
    return found
