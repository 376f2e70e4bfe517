"""One fact edited by fine-tuning: the model says it, and is the same model again afterwards."""

import pytest
import torch

from stages.core.data.facts import Domain, World
from stages.core.evaluate import edits
from stages.core.evaluate.answers import about, with_own
from stages.core.evaluate.edits import edit_scores, learnt
from stages.core.evaluate.fine_tuning import trainable, tune
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import HOW, cases_of, raw_reader, sample_of, slots_of

PAIRS = [("Lima", "Oslo"), ("Oslo", "Tokyo"), ("Puccini", "Verdi"), ("Tokyo", "Lima"), ("Bizet", "Puccini")]


@pytest.fixture(scope="module")
def world(small_domains: list[Domain]) -> World:
    return World.of(small_domains)


def test_edits_are_learnt_and_change_no_bit_of_the_weights_for_good(
    trained_decoder: Decoder, world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(edits, "RATE", 3e-3)  # so small a model has to move further
    reader = raw_reader(trained_decoder)
    rows, slots = with_own(reader, about(world, cases_of(*PAIRS), []), 4), slots_of(reader, *PAIRS)
    before = {name: value.clone() for name, value in trained_decoder.model.state_dict().items()}
    found = edit_scores(reader, rows, slots, world, HOW)
    assert set(found) == {"edits", "flips", "others_change", "learnt"} and found["edits"] == HOW.edits
    assert found["learnt"].value == 1 and found["learnt"].rows == HOW.edits
    assert all(0 <= found[name].value <= 1 for name in ("flips", "others_change"))
    after = trained_decoder.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(value.requires_grad for value in trained_decoder.model.parameters())
    assert edit_scores(reader, rows, slots, world, HOW) == found


def test_a_learnt_edit_answers_the_new_entity_in_plain_text(trained_decoder: Decoder, world: World):
    """It is taught in other templates than the one that asks."""
    reader = raw_reader(trained_decoder)
    fact = with_own(reader, about(world, cases_of(("Lima", "Oslo")), []), 4).row(0, named=True)
    assert learnt(reader, fact, "Peru", HOW) and not learnt(reader, fact, "Japan", HOW)
    with trainable(trained_decoder.blocks):
        told = ["The city Lima is in", "The city Lima must be in"]
        tune(trained_decoder, [sample_of(reader, prompt, "Japan") for prompt in told], 60, 3e-3, 0.02)
        assert learnt(reader, fact, "Japan", HOW)
    assert learnt(reader, fact, "Peru", HOW)


def test_relations_that_slots_were_asked_about_are_not_edited(trained_decoder: Decoder, world: World):
    reader = raw_reader(trained_decoder)
    rows = with_own(reader, about(world, cases_of(*PAIRS), ["place", "era"]), 4)
    assert edit_scores(reader, rows, slots_of(reader, *PAIRS), world, HOW) == {"edits": 0}
