from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from stages.core.data.places import FIRST, SUBJECT
from stages.core.engine.gradients import GradientBatch, activation_gradients
from stages.core.engine.samples import BadRowsError, Sample
from stages.core.model.decoder import Decoder, residual, with_residual
from tests.core.engine import reference
from tests.core.engine.families import FAMILIES, VOCABULARY, tiny

TARGETS = [FIRST, "target_2", "target_3"]
EVERY = [SUBJECT, *TARGETS]
ATTENTION = [
    (family, kind) for family in FAMILIES for kind in ("sdpa", "eager") if (family, kind) != ("gemma2", "sdpa")
]


def measure(
    decoder: Decoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    tokens: int | None = None,
    places: Sequence[str] = (FIRST,),
) -> GradientBatch:
    """All batches as one, in the samples' order."""
    batches = list(activation_gradients(decoder, samples, layers, places, tokens=tokens))
    order = np.argsort(np.concatenate([batch.rows for batch in batches]))
    assert len(order) == len(samples)
    return GradientBatch(
        *(np.concatenate([getattr(batch, name) for batch in batches])[order] for name in GradientBatch.__annotations__)
    )


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether all entries are the same but for 1e-6 of the largest; zeros are zeros."""
    return bool(np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max())


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a share of the largest entry."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("places", [TARGETS, EVERY], ids=["target", "subject"])
@pytest.mark.parametrize(("family", "attention"), ATTENTION)
def test_equals_a_plain_autograd_loop_on_the_full_model(family: str, attention: str, places: list[str]) -> None:
    decoder = tiny(family, torch.float64, attn_implementation=attention, experts_implementation="eager")
    samples, layers = reference.draw(6, VOCABULARY), [2, 0, 3]
    found = measure(decoder, samples, layers, tokens=48, places=places)
    for row, sample in enumerate(samples):
        for column, (place, layer) in enumerate(product(places, layers)):
            gradient, activation, target = reference.gradient(decoder, sample, layer, place)
            # The results are float32; the RMSNorms inside a float64 model are too.
            assert close(found.gradient[row, column], gradient)
            assert close(found.activation[row, column], activation)
            assert found.target_logprob[row] == pytest.approx(target, rel=1e-6)
        with torch.no_grad():
            if sample.answer is None:
                assert np.isnan(found.answer_logprob[row])
            else:
                wanted = reference.logprob(decoder, sample.prompt, sample.answer).item()
                assert found.answer_logprob[row] == pytest.approx(wanted, rel=1e-6)
            logits = decoder.model(torch.tensor([sample.prompt]), use_cache=False).logits
            assert found.top_token[row] == logits[0, -1].argmax()


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_gradients_are_within_1e_5_of_float64(family: str) -> None:
    samples, layers = reference.draw(12, VOCABULARY), [0, 2]
    exact = measure(tiny(family, torch.float64, experts_implementation="eager"), samples, layers).gradient
    found = measure(tiny(family), samples, layers).gradient
    errors = np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert errors.max() < 1e-5


@pytest.mark.parametrize("place", EVERY)
def test_agrees_with_finite_differences_in_float64(place: str) -> None:
    # GPT-2's LayerNorm stays in float64, where RMSNorms go through float32.
    decoder, layer = tiny("gpt2", torch.float64), 1
    sample = Sample((5, 9, 7, 30), (11, 12, 13), subject=1)
    gradient = measure(decoder, [sample], [layer], places=EVERY).gradient[0, EVERY.index(place)].astype(np.float64)
    rng = np.random.default_rng(0)

    @torch.no_grad()
    def loss(offset: np.ndarray) -> float:
        def move(_module: nn.Module, _arguments: object, output: object) -> object:
            stream = residual(output).clone()
            stream[0, sample.position(place)] += torch.from_numpy(offset)
            return with_residual(output, stream)

        handle = decoder.blocks[layer].register_forward_hook(move)
        value = -reference.logprob(decoder, sample.prompt, sample.target).item()
        handle.remove()
        return value

    for direction in rng.normal(size=(4, decoder.d_model)):
        slope = (loss(1e-4 * direction) - loss(-1e-4 * direction)) / 2e-4
        assert slope == pytest.approx(float(gradient @ direction), rel=1e-6)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "qwen3_moe", "gpt2"])
def test_batch_size_position_padding_and_bucket_change_nothing_but_rounding(family: str) -> None:
    """Padding has no side of the caller's: samples come without any, and the engine pads in its own way (prefixes on
    the right while they run, then laid flush right; targets on the right). So the bucket decides all of it: one token a
    bucket is every sample by itself without padding, 100 000 is all of them padded to the longest.
    """
    decoder = tiny(family)
    samples = reference.draw(14, VOCABULARY)
    alone = measure(decoder, samples, [1, 2], tokens=1, places=EVERY)
    shuffled = np.random.default_rng(1).permutation(len(samples))
    for tokens in (40, 100_000):
        mixed = measure(decoder, [samples[row] for row in shuffled], [1, 2], tokens=tokens, places=EVERY)
        for row, place in enumerate(np.argsort(shuffled)):
            assert relative(mixed.gradient[place], alone.gradient[row]) < 1e-5
            assert mixed.target_logprob[place] == pytest.approx(alone.target_logprob[row], rel=1e-5)
            assert mixed.top_token[place] == alone.top_token[row]


def test_places_of_the_target_are_had_without_a_change_of_the_first() -> None:
    """And rows whose target is too short for a place hold zeros there."""
    decoder, samples = tiny("qwen3"), reference.draw(20, VOCABULARY)
    one, several = measure(decoder, samples, [1]), measure(decoder, samples, [1], places=TARGETS)
    assert several.gradient[:, :1].tobytes() == one.gradient.tobytes()
    assert several.activation[:, :1].tobytes() == one.activation.tobytes()
    missing = np.array([[len(sample.target) < number for number in (1, 2, 3)] for sample in samples])
    assert missing[:, 2].any() and not missing[:, 2].all()
    for vectors in (several.gradient, several.activation):
        np.testing.assert_array_equal((vectors == 0).all(-1), missing)


def test_rows_that_fill_the_context_go_with_shorter_ones() -> None:
    """GPT-2 has a table of positions: what pads a row may not run over its end."""
    decoder = tiny("gpt2")
    full, short = Sample((5,) * 62, (7, 8, 9), subject=61), Sample((5, 6, 7, 8, 9, 10), (7,), subject=0)
    both = measure(decoder, [full, short], [1], tokens=1000, places=EVERY)
    for row, sample in enumerate((full, short)):
        alone = measure(decoder, [sample], [1], places=EVERY)
        assert relative(both.gradient[row], alone.gradient[0]) < 1e-5


def test_several_layers_from_one_backward_equal_each_layer_by_itself() -> None:
    decoder, samples = tiny("qwen3"), reference.draw(10, VOCABULARY)
    together = measure(decoder, samples, [3, 0, 1, 2])
    for column, layer in enumerate([3, 0, 1, 2]):
        alone = measure(decoder, samples, [layer])
        assert relative(together.gradient[:, column], alone.gradient[:, 0]) < 1e-6
        np.testing.assert_allclose(together.activation[:, column], alone.activation[:, 0], rtol=1e-5, atol=1e-6)


def test_a_longer_target_is_the_sum_of_its_tokens() -> None:
    decoder = tiny("llama")
    samples = [Sample((5, 6, 7), (8, 9)), Sample((5, 6, 7), (8,)), Sample((5, 6, 7, 8), (9,))]
    both, first, second = measure(decoder, samples, [1]).target_logprob
    assert both == pytest.approx(first + second, rel=1e-5)


def test_bfloat16_gradients_point_where_float32_gradients_point() -> None:
    samples = reference.draw(16, VOCABULARY)
    exact = measure(tiny("qwen3"), samples, [0, 2]).gradient
    found = measure(tiny("qwen3", torch.bfloat16), samples, [0, 2]).gradient
    cosine = (exact * found).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(found, axis=-1)
    assert np.median(cosine) > 0.99


def test_the_same_rows_give_the_same_bytes() -> None:
    decoder, samples = tiny("qwen3"), reference.draw(20, VOCABULARY)
    assert measure(decoder, samples, [1]).gradient.tobytes() == measure(decoder, samples, [1]).gradient.tobytes()


def test_progress_is_told_and_hooks_and_graphs_are_gone_afterwards() -> None:
    decoder, samples, told = tiny("qwen3"), reference.draw(20, VOCABULARY), []
    list(activation_gradients(decoder, samples, [1], advance=told.append, tokens=50))
    assert sum(told) == 20
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in decoder.model.modules())
    assert all(parameter.grad is None for parameter in decoder.model.parameters())


def test_no_samples_give_no_batches() -> None:
    assert list(activation_gradients(tiny("qwen3"), [], [1])) == []


def test_a_loss_that_is_not_finite_is_refused_with_its_row() -> None:
    decoder = tiny("qwen3", tie_word_embeddings=False)
    next(decoder.embedding.parameters()).data[17] = torch.nan
    samples = [Sample((5, 6), (7,)), Sample((5, 17), (7,)), Sample((5, 6), (8,))]
    with pytest.raises(BadRowsError, match="loss or gradient is not finite: 1 row: 1"):
        list(activation_gradients(decoder, samples, [1]))


def test_a_bad_row_is_refused_before_anything_is_computed() -> None:
    told: list[int] = []
    with pytest.raises(BadRowsError, match=r"empty target.*1 row: 1"):
        list(activation_gradients(tiny("qwen3"), [Sample((5,), (7,)), Sample((5,), ())], [1], advance=told.append))
    assert told == []
