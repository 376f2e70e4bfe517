"""Held-out names: a keyed share of the names whose kind answers something, whole kinds, and what those close."""

import pytest

from stages.core.data.facts import Domain, World
from stages.core.data.held_out import HeldOut, held, hold_out
from tests.core.conftest import Real


@pytest.fixture(scope="module")
def out(real_params: Real) -> HeldOut:
    return real_params.held_out


def test_held_out_names_are_a_share_of_the_answers_and_all_of_the_held_out_kinds(
    real_domains: list[Domain], out: HeldOut
):
    world, found = World.of(real_domains), hold_out(real_domains, out)
    answers = {name for name, kind in world.kinds.items() if kind in world.domains}
    of_kinds = {name for name in answers if world.kinds[name] in out.kinds}
    assert out.kinds and of_kinds <= found.names <= answers
    share = len(found.names - of_kinds) / len(answers - of_kinds)
    assert out.names - 0.04 < share < out.names + 0.04


def test_every_name_of_a_relation_that_touches_a_held_out_kind_is_closed_and_no_other(
    real_domains: list[Domain], out: HeldOut
):
    found, touching = hold_out(real_domains, out), set()
    for domain in real_domains:
        for relation in domain.relations.values():
            if relation.subject in out.kinds or relation.answer in out.kinds:
                touching |= {name for fact in relation.facts for name in (fact.subject, fact.answer)}
    assert found.closed == found.names | touching and touching - found.names


def test_a_name_is_held_out_whatever_other_names_and_domains_there_are(real_domains: list[Domain], out: HeldOut):
    every = hold_out(real_domains, out.model_copy(update={"kinds": []})).names
    for domain in real_domains:
        own = hold_out([domain], out.model_copy(update={"kinds": []})).names
        world = World.of([domain])
        assert own == every & {one for one, kind in world.kinds.items() if kind in world.domains}
    assert all(held(out, name, "word") == "name" for name in every) and held(out, "Lyra", out.kinds[0]) == "kind"
    other = hold_out(real_domains, out.model_copy(update={"seed": out.seed + 1, "kinds": []})).names
    assert other != every


def test_a_kind_that_answers_nothing_can_t_be_held_out(real_domains: list[Domain], out: HeldOut):
    for kind in ("capitol", "nebula"):  # no kind at all, and one of subjects alone
        with pytest.raises(ValueError, match=rf"params.yaml: held_out.kinds: found '{kind}', wanted .* city"):
            hold_out(real_domains, out.model_copy(update={"kinds": [kind]}))


def test_nothing_to_hold_out_holds_out_nothing(real_domains: list[Domain], out: HeldOut):
    found = hold_out(real_domains, out.model_copy(update={"names": 0.0, "kinds": []}))
    assert not found.names and not found.closed
