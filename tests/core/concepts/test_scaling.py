"""Gradients are scaled along the basis at every block's output, and only there, and only within the context."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from stages.core.concepts.directions import random
from stages.core.concepts.scaling import ablated_activations, scaled_gradients
from stages.core.model.decoder import Decoder, residual
from tests.core.engine.families import tiny

FAMILIES = ["qwen3", "gpt2", "gemma2"]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def backward(decoder: Decoder, context: AbstractContextManager[None]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The gradients of all weights, and those that go on below each block's output."""
    streams: list[torch.Tensor] = []

    def keep(_module: object, _given: object, output: object) -> None:
        residual(output).retain_grad()
        streams.append(residual(output))

    weights = [value.detach().requires_grad_() for value in decoder.model.parameters()]
    names = [name for name, _ in decoder.model.named_parameters()]
    handles = [block.register_forward_hook(keep) for block in decoder.blocks]
    with context:
        output = torch.func.functional_call(
            decoder.model, dict(zip(names, weights, strict=True)), (), {"input_ids": IDS}
        )
        torch.nn.functional.cross_entropy(output.logits[0, :-1], IDS[0, 1:]).backward()
    for handle in handles:
        handle.remove()
    return [value.grad for value in weights if value.grad is not None], [each.grad for each in streams]  # type: ignore[misc]


def by_hand(decoder: Decoder, bases: Sequence[torch.Tensor], alpha: float) -> list[torch.Tensor]:
    """The gradient that goes on below each block's output, chained block by block with the projection written out."""
    inputs: list[tuple[torch.Tensor, dict]] = []

    def keep(_module: object, given: tuple, named: dict, _output: object) -> None:
        inputs.append((given[0] if given else named["hidden_states"], named))

    handles = [block.register_forward_hook(keep, with_kwargs=True) for block in decoder.blocks]
    with torch.no_grad():
        decoder.model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        last = residual(
            decoder.blocks[-1](inputs[-1][0], **{k: v for k, v in inputs[-1][1].items() if k != "hidden_states"})
        )
    stream = last.detach().requires_grad_()
    logits = decoder.logits(decoder.norm(stream))
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[0, :-1], IDS[0, 1:]), stream)
    found = []
    for block, (given, named), basis in zip(reversed(decoder.blocks), reversed(inputs), reversed(bases), strict=True):
        projection = basis.T @ basis
        gradient = gradient @ (torch.eye(len(projection)) - projection) + alpha * gradient @ projection
        found.append(gradient)
        given = given.detach().requires_grad_()
        output = residual(block(given, **{k: v for k, v in named.items() if k != "hidden_states"}))
        (gradient,) = torch.autograd.grad(output, given, gradient)
    return found[::-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_1_changes_nothing_bit_for_bit(family: str):
    decoder = tiny(family)
    plain, _ = backward(decoder, nullcontext())
    scaled, _ = backward(decoder, scaled_gradients(decoder.blocks, random(5, 32, 0), 1.0))
    assert plain and all(torch.equal(*pair) for pair in zip(plain, scaled, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_gradients_beneath_are_those_of_the_projection_by_hand(family: str, alpha: float):
    decoder = tiny(family)
    bases = [random(3, 32, layer) for layer in range(4)]
    _, streams = backward(decoder, scaled_gradients(decoder.blocks, bases, alpha))
    for found, wanted in zip(streams, by_hand(decoder, bases, alpha), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_alpha_0_leaves_nothing_of_the_subspace_and_2_doubles_it():
    decoder, basis = tiny("qwen3"), random(5, 32, 0)
    plain, none, twice = (
        backward(decoder, context)[1][-1] @ basis.T
        for context in (nullcontext(), *(scaled_gradients(decoder.blocks, basis, alpha) for alpha in (0.0, 2.0)))
    )
    assert none.abs().max() < 1e-6 * plain.abs().max()
    torch.testing.assert_close(twice, 2 * plain)


def test_what_is_computed_forward_stays_as_it_is():
    decoder = tiny("qwen3")
    plain = decoder.model(input_ids=IDS).logits
    with scaled_gradients(decoder.blocks, random(5, 32, 0), 0.0):
        assert torch.equal(decoder.model(input_ids=IDS).logits, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_ablated_activations_have_no_part_in_the_subspace(family: str):
    decoder, basis, seen = tiny(family), random(5, 32, 0), []
    with ablated_activations(decoder.blocks, basis):
        handles = [
            block.register_forward_hook(lambda _m, _g, output: seen.append(residual(output)))
            for block in decoder.blocks
        ]
        decoder.model(input_ids=IDS)
    for handle in handles:
        handle.remove()
    assert len(seen) == 4 and max(float((each @ basis.T).abs().max()) for each in seen) < 1e-5


def test_hooks_are_gone_afterwards_even_after_an_error():
    decoder = tiny("qwen3")
    for context in (
        scaled_gradients(decoder.blocks, random(5, 32, 0), 0.0),
        ablated_activations(decoder.blocks, random(5, 32, 0)),
    ):
        with pytest.raises(KeyError), context:
            assert all(block._forward_hooks for block in decoder.blocks)
            raise KeyError
        assert not any(block._forward_hooks for block in decoder.blocks)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_a_negative_or_meaningless_alpha_is_refused(alpha: float):
    with pytest.raises(ValueError, match=f"alpha: found {alpha}, wanted 0 or more"):
        scaled_gradients(tiny("qwen3").blocks, random(5, 32, 0), alpha).__enter__()


def test_bases_that_do_not_fit_are_refused():
    blocks = tiny("qwen3").blocks
    with pytest.raises(ValueError, match="bases: found 3, wanted one, or one for each of the 4 blocks"):
        scaled_gradients(blocks, [random(5, 32, 0)] * 3, 0.0).__enter__()
    with pytest.raises(ValueError, match="bases: found rows that are not orthonormal"):
        scaled_gradients(blocks, torch.ones(2, 32), 0.0).__enter__()
    assert not any(block._forward_hooks for block in blocks)
