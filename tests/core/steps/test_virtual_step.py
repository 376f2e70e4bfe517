from collections.abc import Sequence

import numpy as np
import pytest
import torch

from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import BadRowsError, Sample
from stages.core.model.decoder import Decoder
from stages.core.steps.virtual_step import ShiftBatch, virtual_steps
from tests.core.engine import reference
from tests.core.engine.families import FAMILIES, VOCABULARY, tiny

ATTENTION = [
    (family, kind) for family in FAMILIES for kind in ("sdpa", "eager") if (family, kind) != ("gemma2", "sdpa")
]
STEPS = [0.05, 0.8]


def gradients(count: int, layers: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, layers, 32)).astype(np.float32)


def take(
    decoder: Decoder,
    samples: Sequence[Sample],
    found: np.ndarray,
    layers: Sequence[int],
    *,
    top: int = 5,
    continuation: int = 0,
    steps: Sequence[float] = STEPS,
    tokens: int | None = None,
) -> ShiftBatch:
    """All batches as one, in the samples' order."""
    batches = list(
        virtual_steps(
            decoder, samples, found, layers, steps, top_tokens=top, continuation_tokens=continuation, tokens=tokens
        )
    )
    order = np.argsort(np.concatenate([batch.rows for batch in batches]))
    assert len(order) == len(samples)

    def joined(name: str) -> object:
        parts = [getattr(batch, name) for batch in batches]
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)[order]
        flat = [entry for part in parts for entry in part]
        return [flat[index] for index in order]

    return ShiftBatch(**{name: joined(name) for name in ShiftBatch.__annotations__})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
def test_equals_a_plain_hook_on_the_full_model(family: str, attention: str) -> None:
    decoder = tiny(family, torch.float64, attn_implementation=attention, experts_implementation="eager")
    samples, layers = reference.draw(4, VOCABULARY), [3, 0, 2]
    found = gradients(4, 3)
    result = take(decoder, samples, found, layers, continuation=3, tokens=60)
    for row, sample in enumerate(samples):
        before = reference.injected_logprobs(decoder, sample, 0, found[row, 0], 0.0)
        assert result.target_before[row] == pytest.approx(before[sample.target[0]].item(), rel=1e-6)
        assert result.continuation_before[row] == reference.injected_text(decoder, sample, 0, found[row, 0], 0.0, 3)
        for column, layer in enumerate(layers):
            for step, size in enumerate(STEPS):
                after = reference.injected_logprobs(decoder, sample, layer, -found[row, column], size)
                shift, here = (after - before).numpy(), (row, column, step)
                up, down = result.up_ids[here], result.down_ids[here]
                np.testing.assert_allclose(result.up_shifts[here], shift[up], atol=2e-6)
                np.testing.assert_allclose(result.down_shifts[here], shift[down], atol=2e-6)
                np.testing.assert_allclose(result.up_shifts[here], np.sort(shift)[::-1][:5], atol=2e-6)
                np.testing.assert_allclose(result.down_shifts[here], np.sort(shift)[:5], atol=2e-6)
                target = sample.target[0]
                assert result.target_after[here] == pytest.approx(after[target].item(), rel=1e-6)
                assert result.target_rank[here] == 1 + int((after > after[target]).sum())
                assert result.kl[here] == pytest.approx((after.exp() * (after - before)).sum().item(), rel=1e-5)
                if sample.answer is None:
                    assert np.isnan(result.answer_after[here])
                else:
                    assert result.answer_after[here] == pytest.approx(after[sample.answer[0]].item(), rel=1e-6)
                text = reference.injected_text(decoder, sample, layer, -found[row, column], size, 3)
                assert result.continuation_after[row][column][step] == text


def test_a_row_without_a_gradient_does_not_move() -> None:
    decoder, samples = tiny("qwen3"), reference.draw(6, VOCABULARY)
    found = gradients(6, 2)
    found[2, 1] = 0
    result = take(decoder, samples, found, [1, 2], continuation=2)
    assert not result.up_shifts[2, 1].any()
    assert not result.down_shifts[2, 1].any()
    assert not result.kl[2, 1].any()
    assert (result.target_after[2, 1] == result.target_before[2]).all()
    assert result.continuation_after[2][1] == [result.continuation_before[2]] * 2
    assert result.up_shifts[2, 0].all()


def test_a_tiny_gradient_still_has_a_direction() -> None:
    decoder, samples = tiny("qwen3"), reference.draw(4, VOCABULARY)
    found = gradients(4, 1)
    result, small = (take(decoder, samples, found * np.float32(scale), [1]) for scale in (1, 1e-30))
    np.testing.assert_allclose(small.up_shifts, result.up_shifts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_float32_shifts_keep_their_digits_at_small_steps(size: float) -> None:
    samples, found = reference.draw(12, VOCABULARY), gradients(12, 1)
    exact = take(tiny("gpt2", torch.float64), samples, found, [1], steps=[size], top=20)
    single = take(tiny("gpt2"), samples, found, [1], steps=[size], top=20)
    # h' itself is rounded in float32: that leaves 6e-8 |h| of a step of size |h| eps.
    np.testing.assert_allclose(single.up_shifts, exact.up_shifts, rtol=1e-2 if size < 1e-3 else 1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_batch_size_and_order_change_nothing_but_rounding(family: str) -> None:
    decoder, samples, found = tiny(family), reference.draw(9, VOCABULARY), gradients(9, 2)
    alone = take(decoder, samples, found, [2, 1], continuation=2, tokens=1)
    together = take(decoder, samples[::-1], found[::-1].copy(), [2, 1], continuation=2)
    np.testing.assert_allclose(together.up_shifts[::-1], alone.up_shifts, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together.kl[::-1], alone.kl, rtol=1e-4, atol=1e-5)
    assert together.continuation_after[::-1] == alone.continuation_after


def test_a_step_along_the_update_direction_makes_the_target_likelier() -> None:
    decoder = tiny("gpt2", torch.float64)
    samples = [Sample(sample.prompt, sample.target[:1]) for sample in reference.draw(12, VOCABULARY)]
    for measured in activation_gradients(decoder, samples, [1, 2]):
        own = [samples[row] for row in measured.rows]
        result = take(decoder, own, measured.gradient, [1, 2], steps=[1e-3])
        gain = result.target_after[..., 0] - result.target_before[:, None]
        # To first order the loss falls by eps |h| |g|.
        slope = 1e-3 * np.linalg.norm(measured.activation, axis=-1) * np.linalg.norm(measured.gradient, axis=-1)
        np.testing.assert_allclose(gain, slope, rtol=0.05)


def test_the_end_of_the_text_stops_a_continuation_and_is_dropped() -> None:
    decoder, samples = tiny("qwen3"), reference.draw(12, VOCABULARY)
    found = gradients(12, 1)
    long = take(decoder, samples, found, [1], continuation=6)
    # Whatever comes second in row 0 is now the end of a text.
    end = long.continuation_before[0][1]
    decoder.model.generation_config.eos_token_id = [end, 2]  # pyright: ignore[reportOptionalMemberAccess]

    def cut(text: tuple[int, ...]) -> tuple[int, ...]:
        return text[: text.index(end)] if end in text else text

    short = take(decoder, samples, found, [1], continuation=6)
    assert short.continuation_before == [cut(text) for text in long.continuation_before]
    assert short.continuation_after == [
        [[cut(text) for text in step] for step in row] for row in long.continuation_after
    ]
    assert len(short.continuation_before[0]) <= 1


def test_a_continuation_stops_where_the_context_ends() -> None:
    decoder = tiny("gpt2")
    result = take(decoder, [Sample((5,) * 62, (7,))], gradients(1, 1), [1], continuation=8)
    assert len(result.continuation_before[0]) <= 3


def test_tokens_that_the_tokenizer_does_not_know_are_not_listed() -> None:
    class Known:
        eos_token_id = 2

        def __len__(self) -> int:
            return 40

    decoder = tiny("qwen3")
    decoder.tokenizer = Known()  # pyright: ignore[reportAttributeAccessIssue]
    result = take(decoder, reference.draw(4, VOCABULARY), gradients(4, 1), [1], top=40)
    assert max(result.up_ids.max(), result.down_ids.max()) == 39


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": []}, "step_sizes: found"),
        ({"steps": [-0.1]}, "step_sizes: found"),
        ({"top": 62}, "top_tokens: found 62, wanted 1 to 61"),
        ({"found": np.zeros((2, 1, 8), np.float32)}, "gradients: found shape"),
        ({"layers": [4]}, "found 4, wanted 0 to 3"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {"found": gradients(2, 1), "layers": [1], **changes}
    with pytest.raises(ValueError, match=message):
        take(tiny("qwen3"), reference.draw(2, VOCABULARY), **settings)  # pyright: ignore[reportArgumentType]


def test_a_gradient_that_is_not_finite_is_refused_with_its_row() -> None:
    found = gradients(3, 1)
    found[1, 0, 4] = np.inf
    with pytest.raises(BadRowsError, match="gradient is not finite: 1 row: 1"):
        take(tiny("qwen3"), reference.draw(3, VOCABULARY), found, [1])


def test_blocks_that_take_no_mask_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "bloom", {})
    with pytest.raises(ValueError, match="BloomForCausalLM: found blocks"):
        take(tiny("bloom"), reference.draw(3, VOCABULARY), gradients(3, 1), [1])


@pytest.mark.parametrize(("window", "right"), [(4, False), (12, False), (13, True), (40, True)])
def test_blocks_that_hide_by_index_whatever_the_mask_says_are_refused_where_slots_push_the_window(
    window: int, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "gpt_neo", {"attention_types": [[["global", "local"], 2]], "window_size": window})
    decoder, samples, found = tiny("gpt_neo", torch.float64), reference.draw(9, VOCABULARY), gradients(9, 1)
    # The longest prompt's ten tokens before its last one, and three slots: 13 indices.
    assert max(len(sample.prompt) for sample in samples) == 11
    assert len(list(activation_gradients(decoder, samples, [1]))) == 1
    if not right:
        with pytest.raises(ValueError, match=r"GPTNeoForCausalLM: found blocks \(GPTNeoBlock\) that do not replay"):
            take(decoder, samples, found, [1])
        return
    result = take(decoder, samples, found, [1])
    for row, sample in enumerate(samples):
        before = reference.injected_logprobs(decoder, sample, 1, found[row, 0], 0.0)
        after = reference.injected_logprobs(decoder, sample, 1, -found[row, 0], STEPS[1])
        wanted = (after - before).numpy()[result.up_ids[row, 0, 1]]
        np.testing.assert_allclose(result.up_shifts[row, 0, 1], wanted, atol=2e-6)


def test_slots_are_tried_anew_for_a_longer_prompt() -> None:
    settings = {"attention_types": [[["global", "local"], 2]], "window_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "gpt_neo", settings)
        decoder = tiny("gpt_neo")
    short, long = Sample((5, 6, 7), (8,)), Sample((5, 6, 7, 8, 9, 10, 11), (8,))
    take(decoder, [short], gradients(1, 1), [1])
    with pytest.raises(ValueError, match="do not replay"):
        take(decoder, [short, long], gradients(2, 1), [1])
