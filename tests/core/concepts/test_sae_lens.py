"""Dictionaries open in SAELens and mean the same there, and SAELens' own open here."""

from pathlib import Path

import pytest
import torch

from stages.core.concepts.dictionary import load, plain
from stages.core.concepts.sparse_autoencoder import trained
from stages.core.model.opening import card_of
from tests.core.engine.families import tiny


def test_sae_lens_reads_ours_and_we_read_theirs(tmp_path: Path):
    sae_lens = pytest.importorskip("sae_lens")
    card = card_of(tiny("qwen3"), "folder", "somebody/tiny", "0" * 40)
    streams = torch.randn(200, card.d_model, generator=torch.Generator().manual_seed(0)) * 3 + 1
    for number, ours in enumerate((trained(streams, card, 2, 0), plain("a", card, 1, streams[:9], streams.mean(0)))):
        ours.save(tmp_path / f"ours {number}")
        theirs = sae_lens.SAE.load_from_disk(tmp_path / f"ours {number}")
        made = ours.activations(streams) @ ours.directions + ours.centre
        torch.testing.assert_close(theirs.encode(streams), ours.activations(streams), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs(streams), made, atol=1e-4, rtol=1e-4)
        assert theirs.cfg.metadata.hook_name == f"blocks.{ours.layer}.hook_resid_post"
        theirs.save_model(tmp_path / f"theirs {number}")
        again = load(str(tmp_path / f"theirs {number}"))
        again.check(card, [ours.layer])
        assert again.kind == ours.kind and torch.equal(again.directions, ours.directions)
        torch.testing.assert_close(again.activations(streams), ours.activations(streams))
