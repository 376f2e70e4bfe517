"""Held-out names: a keyed share of the names whose kind answers something, whole kinds, and what those close."""

from pathlib import Path

import pytest

from stages.core.data.facts import Domain, World, read_domain
from stages.core.data.held_out import HeldOut, held, hold_out
from stages.core.run.params import Section, read_sections

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "data/facts").glob("*.yaml"))


class Sections(Section):
    held_out: HeldOut


@pytest.fixture(scope="module")
def out() -> HeldOut:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return read_sections(Sections).held_out


@pytest.fixture(scope="module")
def domains() -> list[Domain]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return [read_domain(name) for name in NAMES]


def test_held_out_names_are_a_share_of_the_answers_and_all_of_the_held_out_kinds(domains: list[Domain], out: HeldOut):
    world, found = World.of(domains), hold_out(domains, out)
    answers = {name for name, kind in world.kinds.items() if kind in world.domains}
    of_kinds = {name for name in answers if world.kinds[name] in out.kinds}
    assert out.kinds and of_kinds <= found.names <= answers
    share = len(found.names - of_kinds) / len(answers - of_kinds)
    assert out.names - 0.04 < share < out.names + 0.04


def test_every_name_of_a_relation_that_touches_a_held_out_kind_is_closed_and_no_other(
    domains: list[Domain], out: HeldOut
):
    found, touching = hold_out(domains, out), set()
    for domain in domains:
        for relation in domain.relations.values():
            if relation.subject in out.kinds or relation.answer in out.kinds:
                touching |= {name for fact in relation.facts for name in (fact.subject, fact.answer)}
    assert found.closed == found.names | touching and touching - found.names


def test_a_name_is_held_out_whatever_other_names_and_domains_there_are(domains: list[Domain], out: HeldOut):
    every = hold_out(domains, out.model_copy(update={"kinds": []})).names
    for domain in domains:
        own = hold_out([domain], out.model_copy(update={"kinds": []})).names
        world = World.of([domain])
        assert own == every & {one for one, kind in world.kinds.items() if kind in world.domains}
    assert all(held(out, name, "word") == "name" for name in every) and held(out, "Lyra", out.kinds[0]) == "kind"
    other = hold_out(domains, out.model_copy(update={"seed": out.seed + 1, "kinds": []})).names
    assert other != every


def test_a_kind_that_answers_nothing_can_t_be_held_out(domains: list[Domain], out: HeldOut):
    for kind in ("capitol", "nebula"):  # no kind at all, and one of subjects alone
        with pytest.raises(ValueError, match=rf"params.yaml: held_out.kinds: found '{kind}', wanted .* city"):
            hold_out(domains, out.model_copy(update={"kinds": [kind]}))


def test_nothing_to_hold_out_holds_out_nothing(domains: list[Domain], out: HeldOut):
    found = hold_out(domains, out.model_copy(update={"names": 0.0, "kinds": []}))
    assert not found.names and not found.closed
