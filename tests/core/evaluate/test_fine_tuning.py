"""Fine-tuning for real: what learns, and that every weight is put back bit for bit."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from stages.core.engine.samples import Sample
from stages.core.evaluate.fine_tuning import activation_moves, sample_loss, trainable, tune
from stages.core.model.decoder import Decoder


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The weights that are not the same bits."""
    return {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}


def own(names: dict[str, torch.Tensor]) -> set[str]:
    """The model's own weights: other tests may have left adapters in it, which are off and so learn nothing."""
    return {name for name in names if ".lora_" not in name}


@pytest.fixture
def sample(small_decoder: Decoder) -> Sample:
    prompt = small_decoder.tokens("The capital of Peru is")
    return Sample(tuple(prompt), tuple(small_decoder.continuation("New Delhi")))


@pytest.fixture
def before(small_decoder: Decoder) -> Iterator[dict[str, torch.Tensor]]:
    """The weights before a test, which they have to be after it too, frozen."""
    kept = weights(small_decoder.model)
    yield kept
    assert not changed(small_decoder.model, kept)
    assert not any(value.requires_grad or value.grad is not None for value in small_decoder.model.parameters())


def test_the_blocks_alone_learn_where_they_alone_are_trainable(small_decoder: Decoder, sample: Sample, before: dict):
    with trainable(small_decoder.blocks):
        tune(small_decoder, [sample], 2, 1e-3)
        found = changed(small_decoder.model, before)
    assert found == {name for name in own(before) if "layers." in name}


def test_all_weights_learn_where_the_model_is_trainable_and_the_fact_is_learnt(
    small_decoder: Decoder, sample: Sample, before: dict
):
    with trainable(small_decoder.model):
        start = sample_loss(small_decoder, sample).item()
        tune(small_decoder, [sample], 30, 1e-2)
        assert sample_loss(small_decoder, sample).item() < 0.1 < 1 < start
        assert changed(small_decoder.model, before) == own(before)


def test_weights_are_put_back_when_asked_and_learn_the_same_again(small_decoder: Decoder, sample: Sample, before: dict):
    with trainable(small_decoder.blocks) as put_back:
        tune(small_decoder, [sample], 3, 1e-3)
        first = weights(small_decoder.model)
        put_back()
        assert not changed(small_decoder.model, before)
        tune(small_decoder, [sample], 3, 1e-3)
        assert not changed(small_decoder.model, first)


def test_weights_are_put_back_after_an_error(small_decoder: Decoder, sample: Sample, before: dict):
    with pytest.raises(KeyboardInterrupt), trainable(small_decoder.model):
        tune(small_decoder, [sample], 1, 1e-3)
        raise KeyboardInterrupt


def test_what_is_known_well_enough_is_not_learned(small_decoder: Decoder, sample: Sample, before: dict):
    with trainable(small_decoder.model):
        tune(small_decoder, [sample], 5, 1e-3, enough=1e6)
        assert not changed(small_decoder.model, before)


def test_a_sample_s_move_is_the_same_whatever_was_learned_before_it(
    small_decoder: Decoder, sample: Sample, before: dict
):
    other = Sample(sample.prompt, tuple(small_decoder.continuation("Oslo")))
    both = activation_moves(small_decoder, [other, sample], [0, 1])
    assert (both[1] == activation_moves(small_decoder, [sample], [0, 1])[0]).all()
    assert both.shape == (2, 2, small_decoder.d_model) and abs(both).max() > 0
