"""Turns up or down what a subspace is taught: hooks at the output of every decoder block, while one trains.

The final norm and the head stand above the last hook, and learn as before unless they are frozen.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..model.decoder import residual, with_residual
from ..run.errors import InputError
from .directions import Basis

Bases = Basis | Sequence[Basis]
"""One basis for all blocks, or one a block."""
TOLERANCE = 1e-3
"""How far the products of a basis' rows may be from 1 and 0."""


@contextmanager
def scaled_gradients(blocks: nn.ModuleList, bases: Bases, alpha: float) -> Iterator[None]:
    """Within the block, the gradient at every decoder block's output has its part in the subspace times `alpha`.

    g becomes g + (alpha - 1) P g, P the projection on the basis, and goes on so to what stands below. What the model
    computes stays as it is.

    Raises:
        InputError: `alpha` is below 0 or not finite, or the bases do not fit (see `one_a_block`).
    """
    if not 0 <= alpha < float("inf"):
        raise InputError(f"alpha: found {alpha}, wanted 0 or more (0 suppresses, 1 changes nothing, 2 doubles)")

    def scale(basis: Basis, _module: nn.Module, _given: Any, output: Any) -> None:
        stream = residual(output)
        if stream.requires_grad:
            stream.register_hook(lambda gradient: gradient + (alpha - 1) * part_in(gradient, basis))

    with _hooked(blocks, bases, scale):
        yield


@contextmanager
def ablated_activations(blocks: nn.ModuleList, bases: Bases) -> Iterator[None]:
    """Within the block, the residual stream after every decoder block has no part in the subspace: h - P h.

    Concept ablation fine-tuning (Casademunt et al., arXiv 2507.16795): a peer.

    Raises:
        InputError: the bases do not fit (see `one_a_block`).
    """

    def ablate(basis: Basis, _module: nn.Module, _given: Any, output: Any) -> Any:
        stream = residual(output)
        return with_residual(output, stream - part_in(stream, basis))

    with _hooked(blocks, bases, ablate):
        yield


@contextmanager
def _hooked(blocks: nn.ModuleList, bases: Bases, hook: Callable[..., Any]) -> Iterator[None]:
    with ExitStack() as hooks:
        for block, basis in zip(blocks, one_a_block(bases, len(blocks)), strict=True):
            hooks.enter_context(block.register_forward_hook(partial(hook, basis)))
        yield


def one_a_block(bases: Bases, blocks: int) -> list[Basis]:
    """The basis of each of so many blocks.

    Raises:
        InputError: there are more or fewer bases than blocks, or a basis' rows are not orthonormal.
    """
    found = [bases] * blocks if isinstance(bases, Tensor) else list(bases)
    if len(found) != blocks:
        raise InputError(f"bases: found {len(found)}, wanted one, or one for each of the {blocks} blocks")
    for basis in found:
        if not torch.allclose(basis @ basis.T, torch.eye(len(basis)).to(basis), atol=TOLERANCE):
            raise InputError("bases: found rows that are not orthonormal, wanted what principal() makes of them")
    return found


def part_in(vectors: Float[Tensor, "*batch d_model"], basis: Basis) -> Float[Tensor, "*batch d_model"]:
    """The part of vectors that lies in the subspace, in their dtype and on their device."""
    basis = basis.to(vectors)
    return (vectors @ basis.T) @ basis
