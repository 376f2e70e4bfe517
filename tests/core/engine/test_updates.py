"""The gradient of an update is that of its loss, by autograd through the whole model and by finite differences."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.data.places import FIRST
from stages.core.data.updates import BETA, KINDS, Turn, Update
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import BadRowsError, Sample
from stages.core.engine.updates import update_gradients
from stages.core.model.decoder import Decoder, residual, with_residual
from tests.core.engine import reference
from tests.core.engine.families import tiny

PROMPT, SAID, OTHER = (5, 9, 3, 17), (7, 4, 11), (8, 6)
LAYERS = [2, 0]


def update(kind: str, **changes: Any) -> Update:
    given: dict[str, Any] = {"advantage": 0.0, "reference": 0.0, **changes}
    return Update(1, kind, (Turn(role="", content="x"),), ("y",), **given)


def terms(*completions: tuple[int, ...]) -> list[Sample]:
    return [Sample(PROMPT, completion) for completion in completions]


LOSSES: dict[str, tuple[Update, list[Sample], Callable[[Sequence[Tensor]], Tensor]]] = {
    "imitate": (update("imitate"), terms(SAID), lambda each: -each[0]),
    "unlearn": (update("unlearn"), terms(SAID), lambda each: each[0]),
    "reinforce": (update("reward", advantage=2.5), terms(SAID), lambda each: -2.5 * each[0]),
    "penalise": (update("reward", advantage=-0.5), terms(SAID), lambda each: 0.5 * each[0]),
    "DPO without a reference": (
        update("preference"), terms(SAID, OTHER), lambda each: -F.logsigmoid(BETA * (each[0] - each[1]))
    ),
    "DPO": (
        update("preference", reference=-3.0),
        terms(SAID, OTHER),
        lambda each: -F.logsigmoid(BETA * (each[0] - each[1] + 3.0)),
    ),
}  # fmt: skip


def loss_at(decoder: Decoder, layer: int, samples: Sequence[Sample], loss: Any, moved: Tensor | None = None) -> Any:
    """The loss, and the residual stream after the layer at the last prompt token, which all completions share."""
    shared: list[Tensor] = []

    def share(_module: object, _arguments: object, output: object) -> object:
        stream = residual(output)
        if not shared:
            own = stream[0, len(PROMPT) - 1].detach().clone()
            shared.append((own if moved is None else own + moved).requires_grad_())
        return with_residual(output, torch.cat([stream[:, : len(PROMPT) - 1], shared[0][None, None],
                                                stream[:, len(PROMPT) :]], 1))  # fmt: skip

    handle = decoder.blocks[layer].register_forward_hook(share)
    try:
        return loss([reference.logprob(decoder, sample.prompt, sample.target) for sample in samples]), shared[0]
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_gradient_of_the_loss(family: str, name: str):
    decoder = tiny(family, torch.float64, **({"attn_implementation": "eager"} if family == "gemma2" else {}))
    each, samples, loss = LOSSES[name]
    (found,), (logprob,) = update_gradients(decoder, [(each, samples)], LAYERS)
    for layer, vector in zip(LAYERS, found, strict=True):
        value, stream = loss_at(decoder, layer, samples, loss)
        (wanted,) = torch.autograd.grad(value, stream)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=2e-6 * wanted.abs().max().item())
        step = 1e-3 * F.normalize(wanted, dim=0)
        up, down = (loss_at(decoder, layer, samples, loss, moved)[0].item() for moved in (step, -step))
        np.testing.assert_allclose((up - down) / 2e-3, np.linalg.norm(vector), rtol=2e-3)  # norms are float32
    np.testing.assert_allclose(logprob, reference.logprob(decoder, PROMPT, samples[0].target).item(), rtol=1e-6)


def test_many_updates_at_once_are_those_of_each_alone():
    decoder = tiny("llama")
    rows = [(each, samples) for each, samples, _ in LOSSES.values()]
    places = [FIRST, "target_2"]
    together, logprobs = update_gradients(decoder, rows, LAYERS, places)
    for row, vectors, logprob in zip(rows, together, logprobs, strict=True):
        (alone,), (own,) = update_gradients(decoder, [row], LAYERS, places)
        np.testing.assert_allclose(vectors, alone, atol=1e-5 * np.abs(alone).max())
        np.testing.assert_allclose(logprob, own, rtol=1e-5)


def test_behind_the_prompt_it_is_the_first_completion_s_part_alone():
    decoder = tiny("llama")
    each, samples, _ = LOSSES["DPO"]
    (found,), _ = update_gradients(decoder, [(each, samples)], LAYERS, ["target_2", FIRST, "target_3"])
    (first,) = activation_gradients(decoder, samples[:1], LAYERS, ["target_2", "target_3"])
    weight, _ = KINDS["preference"](each, [reference.logprob(decoder, PROMPT, s.target).item() for s in samples])
    np.testing.assert_allclose(found[[0, 1, 4, 5]], weight * first.gradient[0], rtol=1e-3, atol=1e-6)


def test_a_preference_that_is_far_from_kept_or_long_kept_does_not_overflow():
    for nats, push in ((-1e6, BETA), (1e6, 0.0), (0.0, BETA / 2)):
        assert KINDS["preference"](update("preference"), [nats, 0.0]) == (push, -push)


def test_rows_that_cannot_be_measured_are_named():
    good, bad = LOSSES["imitate"][:2], (update("imitate"), terms(()))
    with pytest.raises(BadRowsError, match="empty target") as error:
        update_gradients(tiny("llama"), [good, bad], LAYERS)
    assert error.value.rows == [1]
