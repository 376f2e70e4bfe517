"""Other models as readers: each of its own gradients, and of its own answers."""

from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from stages.core.data.facts import Domain, World
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import samples_of
from stages.core.evaluate.asking import written
from stages.core.evaluate.edits import sample_of
from stages.core.evaluate.fine_tuning import trainable, tune
from stages.core.evaluate.peers import own_cases, own_slots, peer_reader, peers_of
from stages.core.evaluate.table import REPORTS
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of
from stages.core.model.section import Peer
from stages.core.run.files import write_json
from tests.core.evaluate.small import HOW, cases_of, raw_reader
from tests.core.reader.teaching import LAYERS, new_reader, settings


@pytest.fixture(scope="module")
def world(small_domains: list[Domain]) -> World:
    return World.of(small_domains)


def test_a_peer_reads_the_raw_direction_of_its_last_layer_at_its_own_norm(
    small_decoder: Decoder, trained_decoder: Decoder
):
    """Whatever the projector of the model under study is."""
    main = new_reader(small_decoder, settings(architecture="mlp", whiten=True))
    peer = peer_reader(trained_decoder, main.card, "other")
    assert main.card.layers == LAYERS and not list(peer.trained.parameters())
    assert (peer.card.question, peer.card.places) == (main.card.question, main.card.places)
    assert peer.card.norm == pytest.approx(
        peer.decoder.embed(torch.arange(len(peer.tokens))).norm(dim=-1).mean().item()
    )
    gradients = torch.randn(3, 2, trained_decoder.d_model, generator=torch.Generator().manual_seed(0))
    found = peer.read(gradients)
    torch.testing.assert_close(F.normalize(found.felt, dim=-1), F.normalize(-gradients, dim=-1))
    torch.testing.assert_close(found.opposite, -found.felt)


def test_a_peer_s_case_moves_away_from_its_own_answer_and_is_left_out_where_it_says_the_target(
    trained_decoder: Decoder, world: World
):
    """The peer is taught a misconception about Peru; it knows Norway."""
    peer = raw_reader(trained_decoder)
    cases = cases_of(("Oslo", "Lima"), ("Tokyo", "Lima"), ("Oslo", "Lima"), ("Lima", "Oslo"))
    cases = cases.with_columns(prompt=pl.Series(["The capital of Peru is"] * 2 + ["The capital of Norway is"] * 2))
    with trainable(trained_decoder.blocks):
        taught = {"The capital of Peru is": "Tokyo", "The capital of Norway is": "Oslo"}
        tune(trained_decoder, [sample_of(peer, *pair) for pair in taught.items()], 100, 3e-3, 0.01)
        found = own_cases(peer, cases, world, 4)
    assert found.select("prompt_id", "target", "answer").rows() == [("id0", "Oslo", "Tokyo"), ("id3", "Lima", "Oslo")]


def test_a_peer_s_slots_hold_its_own_gradients_row_by_row(trained_decoder: Decoder):
    """Prompts and targets of different lengths, which go through the model in another order."""
    prompts = ["It is known that the capital of Peru is", "The capital of Peru is", "The period of Verdi is called"]
    peer = raw_reader(trained_decoder)
    cases = cases_of(("New Delhi", "Lima"), ("Oslo", "Lima"), ("verism", "realism"))
    cases = cases.with_columns(prompt=pl.Series(prompts))
    found = own_slots(peer, cases)
    assert found.count.tolist() == [2, 1, 1]
    for row in range(3):
        [batch] = activation_gradients(
            trained_decoder, samples_of(trained_decoder, cases[row : row + 1]), peer.card.layers, peer.card.places
        )
        update = F.normalize(-torch.from_numpy(batch.gradient[0]), dim=-1)
        torch.testing.assert_close(F.normalize(found.felt[row], dim=-1), update, atol=1e-4, rtol=1e-4)


def test_a_peer_s_reports_are_marked_by_its_own_answers_under_its_name(trained_decoder: Decoder, world: World):
    peer = raw_reader(trained_decoder)
    cases = own_cases(peer, cases_of(("Oslo", "Tokyo"), ("Tokyo", "Oslo")), world, 4)
    found = written(peer, cases, (own_slots(peer, cases), None), "other", HOW.report_tokens)
    assert found.schema == pl.Schema(REPORTS) and set(found["condition"]) == {"other"}
    assert found["answer"].to_list() == ["Lima", "Lima"] and found["confidence"].is_null().all()


def test_peers_are_opened_in_the_order_of_their_names(
    small_decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    card = raw_reader(small_decoder).card
    assert list(peers_of(card, {})) == []
    assert small_decoder.tokenizer is not None
    peers = {name: Peer(seed=1, permuted=False, tied=True) for name in ("permuted", "other_seed")}
    for name in peers:
        small_decoder.model.save_pretrained(tmp_path / "data/peers" / name)
        small_decoder.tokenizer.save_pretrained(tmp_path / "data/peers" / name)
        made = card_of(small_decoder, "pocket", name, "0").model_dump()
        write_json(tmp_path / "data/peers" / name / "model.json", made)
    found = list(peers_of(card, peers))
    assert [(name, peer.card.model) for name, peer in found] == [(name, name) for name in ("other_seed", "permuted")]
