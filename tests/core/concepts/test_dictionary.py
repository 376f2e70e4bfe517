"""Dictionaries are written and read in SAELens' format, and refused where they are of something else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.concepts import sparse_autoencoder
from stages.core.concepts.dictionary import Dictionary, load, plain
from stages.core.concepts.sparse_autoencoder import trained, unexplained
from stages.core.model.opening import ModelCard, card_of
from tests.core.engine.families import tiny

WIDTH = 32


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return card_of(tiny("qwen3"), "folder", "somebody/tiny", "0" * 40)


def sparse(rows: int) -> torch.Tensor:
    """Vectors that are each made up of two of 20 directions."""
    draw = torch.Generator().manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(20, WIDTH, generator=draw), dim=-1)
    chosen = torch.stack([torch.randperm(20, generator=draw)[:2] for _ in range(rows)])
    return parts[chosen].sum(1) * 3 + 1


@pytest.fixture(scope="module")
def found(card: ModelCard) -> Dictionary:
    return trained(sparse(600), card, 2, 0)


def test_a_sparse_autoencoder_makes_activations_up_of_few_unit_directions(found: Dictionary, card: ModelCard):
    streams = sparse(100)
    active = found.activations(streams)
    assert active.shape == (100, 8 * WIDTH) and int((active > 0).sum(1).max()) <= 12
    torch.testing.assert_close(found.unit, found.directions, atol=1e-5, rtol=0)
    assert unexplained(found, streams) < 0.05


def test_a_sparse_autoencoder_is_that_of_its_seed(card: ModelCard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sparse_autoencoder, "STEPS", 5)
    one, again, other = (trained(sparse(600), card, 2, seed).directions for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_what_is_saved_is_what_is_loaded_with_its_names(found: Dictionary, card: ModelCard, tmp_path: Path):
    names, scores = [{"domain": "music"}] * 256, [{"domain": 0.75}] * 256
    for number, one in enumerate((found, plain("random", card, 1, torch.randn(3, WIDTH), torch.randn(WIDTH)))):
        named = Dictionary(
            **{**vars(one), "names": names[: len(one.directions)], "scores": scores[: len(one.directions)]}
        )
        named.save(tmp_path / str(number))
        again = load(str(tmp_path / str(number)))
        for key, value in vars(named).items():
            other = getattr(again, key)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, key
        streams = sparse(10)
        alike = replace(
            one, encoder=one.encoder.contiguous()
        )  # on some processors a product's last bit is its layout's
        assert torch.equal(again.activations(streams), alike.activations(streams))


def test_published_forms_mean_what_they_say(found: Dictionary, tmp_path: Path):
    streams = sparse(10)
    found.save(tmp_path / "one")
    config = json.loads((tmp_path / "one/cfg.json").read_text())

    def changed(**changes: object) -> Dictionary:
        (tmp_path / "one/cfg.json").write_text(json.dumps({**config, **changes}))
        return load(str(tmp_path / "one"))

    uncentred = changed(apply_b_dec_to_input=False).activations(streams + found.centre)
    assert torch.allclose(uncentred, changed().activations(streams + 2 * found.centre), atol=1e-4)
    assert changed(metadata={"model_name": "a", "hook_name": "blocks.2.hook_resid_pre"}).layer == 1
    relu = {key: value for key, value in config.items() if key != "k"}
    (tmp_path / "one/cfg.json").write_text(json.dumps({**relu, "architecture": "standard"}))
    wanted = ((streams - found.centre) @ found.encoder.contiguous() + found.bias).relu()
    assert torch.equal(load(str(tmp_path / "one")).activations(streams), wanted)
    jump = Dictionary(**{**vars(found), "settings": {**found.settings}, "threshold": torch.full((256,), 0.5)})
    before = (streams - found.centre) @ found.encoder + found.bias
    np.testing.assert_array_equal(jump.activations(streams), torch.where(before > 0.5, before, 0.0))


def test_what_is_of_something_else_is_refused(found: Dictionary, card: ModelCard, tmp_path: Path):
    found.check(card, [1, 2])
    found.check(card.model_copy(update={"id": "other/Tiny-it"}), [2])
    with pytest.raises(ValueError, match=r"found one of model somebody/tiny at 0+, wanted somebody/large"):
        found.check(card.model_copy(update={"id": "somebody/large"}), [2])
    with pytest.raises(ValueError, match="make it anew"):
        found.check(card.model_copy(update={"commit": "1" * 40}), [2])
    with pytest.raises(ValueError, match="found one of layer 2, wanted one of 0, 1"):
        found.check(card, [0, 1])
    with pytest.raises(ValueError, match="found vectors of width 32, wanted 64"):
        found.check(card.model_copy(update={"d_model": 64}), [2])
    with pytest.raises(ValueError, match="wanted a folder, or owner/repository/folder@commit"):
        load("nowhere")
    with pytest.raises(ValueError, match="found no activations"):
        trained(torch.ones(0, WIDTH), card, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gated"}, "architecture: found gated, wanted topk or standard or jumprelu"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations: found layer_norm, wanted none"),
        ({"metadata": {"hook_name": "blocks.0.hook_mlp_out"}}, "hook_name: found blocks.0.hook_mlp_out, wanted"),
        ({"metadata": {"hook_name": "blocks.0.hook_resid_post"}}, "not a dictionary in SAELens' format"),
    ],
)
def test_a_form_that_is_not_read_is_refused(found: Dictionary, tmp_path: Path, changes: dict, message: str):
    found.save(tmp_path / "one")
    config = json.loads((tmp_path / "one/cfg.json").read_text())
    (tmp_path / "one/cfg.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "one"))
