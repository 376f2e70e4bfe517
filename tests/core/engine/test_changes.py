"""The gradient of a change is that of moving the model's prediction to the changed model's, through the model alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.core.engine.changes import change_gradients
from stages.core.engine.changes import said as said_of
from stages.core.engine.gradients import gradients_of
from stages.core.engine.samples import BadRowsError, Sample
from stages.core.model.changes import speaker, steered
from stages.core.model.decoder import Decoder, residual
from stages.core.run.errors import InputError
from tests.tools.families import FAMILIES, tiny

LAYERS, PLACES = [1, 0], ("target_1", "target_2")
TEXTS = ("Where is it", "a", "The house on the hill is")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return tiny(FAMILIES["pythia"])


def prompts(decoder: Decoder) -> list[list[int]]:
    return [decoder.tokens(text) for text in TEXTS]


def pushed(decoder: Decoder) -> Callable[[Int[Tensor, "row position"]], Float[Tensor, "row position vocabulary"]]:
    """The model with a random vector added after its first block."""
    return steered(decoder, {0: torch.randn(decoder.d_model, generator=torch.Generator().manual_seed(1))})


def test_it_is_the_gradient_of_the_divergence_by_autograd_through_the_whole_model(decoder: Decoder):
    change = pushed(decoder)
    found = change_gradients(decoder, prompts(decoder), change, LAYERS, PLACES, tokens=2)
    for row, prompt in enumerate(prompts(decoder)):
        ids = torch.tensor([[*prompt, *found.after[row][:-1]]])
        wanted, streams = change(ids)[0, len(prompt) - 1 :].softmax(-1), {}

        def keeping(layer: int, kept: dict[int, Tensor] = streams) -> Callable[..., None]:
            def keep(_module: object, _given: object, output: object) -> None:
                kept[layer] = residual(output)
                kept[layer].retain_grad()

            return keep

        hooks = [decoder.blocks[layer].register_forward_hook(keeping(layer)) for layer in LAYERS]
        with torch.enable_grad():
            logits = decoder.model(inputs_embeds=decoder.embed(ids).requires_grad_()).logits[0, len(prompt) - 1 :]
            torch.nn.functional.kl_div(logits.log_softmax(-1), wanted, reduction="sum").backward()
        for hook in hooks:
            hook.remove()
        for index, layer in enumerate(LAYERS):
            gradient = streams[layer].grad[0]
            for place in range(len(found.after[row])):
                position = len(prompt) - 1 + place
                np.testing.assert_allclose(
                    found.gradient[row, place * len(LAYERS) + index], gradient[position], rtol=1e-3, atol=1e-6
                )
        before = decoder.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        assert found.distance[row] == pytest.approx(float((wanted[0] - before).abs().sum()) / 2, rel=1e-4)


def test_a_change_that_says_one_thing_for_certain_has_the_gradient_of_imitating_it(decoder: Decoder):
    wanted = 42

    def certain(ids: Int[Tensor, "row position"]) -> Float[Tensor, "row position vocabulary"]:
        logits = torch.full((*ids.shape, decoder.vocabulary), -1e9)
        logits[..., wanted] = 0.0
        return logits

    found = change_gradients(decoder, prompts(decoder), certain, LAYERS, tokens=1)
    assert found.after == [(wanted,)] * len(TEXTS)
    samples = [Sample(tuple(prompt), (wanted,)) for prompt in prompts(decoder)]
    gradient, logprob = gradients_of(decoder, samples, LAYERS, ("target_1",))
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.distance, 1 - np.exp(logprob), rtol=1e-4)


def test_a_model_that_has_not_changed_moves_nothing(decoder: Decoder):
    found = change_gradients(decoder, prompts(decoder), speaker(decoder.model), LAYERS, PLACES, tokens=2)
    assert found.before == found.after and not found.gradient.any() and not found.distance.any()


def test_prompts_together_are_as_prompts_alone(decoder: Decoder):
    change = pushed(decoder)
    together = change_gradients(decoder, prompts(decoder), change, LAYERS, PLACES, tokens=2)
    for row, prompt in enumerate(prompts(decoder)):
        alone = change_gradients(decoder, [prompt], change, LAYERS, PLACES, tokens=2)
        np.testing.assert_allclose(together.gradient[row], alone.gradient[0], rtol=1e-3, atol=1e-6)
        assert (together.before[row], together.after[row]) == (alone.before[0], alone.after[0])


def test_a_place_behind_what_is_said_holds_zeros(decoder: Decoder):
    found = change_gradients(decoder, prompts(decoder), pushed(decoder), LAYERS, PLACES, tokens=1)
    gradient = found.gradient.reshape(len(TEXTS), len(PLACES), -1)
    assert gradient[:, 0].any(-1).all() and not gradient[:, 1].any()


def test_what_is_said_ends_before_a_token_without_letter_or_digit_and_has_one_at_least(decoder: Decoder):
    def spelling(text: str) -> Callable[[Int[Tensor, "row position"]], Float[Tensor, "row position vocabulary"]]:
        ids = decoder.tokens(text)

        def speak(read: Int[Tensor, "row position"]) -> Float[Tensor, "row position vocabulary"]:
            logits = torch.zeros((*read.shape, decoder.vocabulary))
            for step, token in enumerate(ids[: read.shape[1]]):
                logits[:, step, token] = 1.0
            return logits

        return speak

    (prompt,) = {tuple(decoder.tokens("x"))}
    assert [said_of(decoder, [prompt], spelling(text), 3) for text in ("ab.c", "abcd", ".ab")] == [
        [tuple(decoder.tokens("ab"))],
        [tuple(decoder.tokens("abc"))],
        [tuple(decoder.tokens(".ab"))],
    ]


def test_what_can_t_be_measured_is_refused(decoder: Decoder):
    long = [[5] * (decoder.context_length or 0)]
    with pytest.raises(BadRowsError, match="longer than the context"):
        change_gradients(decoder, long, speaker(decoder.model), LAYERS, tokens=2)
    with pytest.raises(BadRowsError, match="empty prompt"):
        change_gradients(decoder, [[]], speaker(decoder.model), LAYERS, tokens=2)
    with pytest.raises(InputError, match="layers"):
        change_gradients(decoder, prompts(decoder), speaker(decoder.model), [9], tokens=2)
    with pytest.raises(BadRowsError, match="gradient is not finite"):
        change_gradients(decoder, prompts(decoder), lambda ids: speaker(decoder.model)(ids) * np.nan, LAYERS, tokens=1)
