"""Directions in the residual stream that stand for a concept: orthonormal bases [k, d_model], one function a kind."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.gradients import streams_after
from ..model.decoder import Decoder
from ..run.errors import InputError
from ..run.seeds import keyed_rng
from .taught import Ids, Marks, marked_losses

NEGLIGIBLE = 1e-5
"""Singular values below this fraction of the largest are rounding errors."""

Basis = Float[Tensor, "_ d_model"]


def learned_along(decoder: Decoder, ids: Ids, taught: Marks, count: int) -> list[Basis]:
    """For each block, the `count` principal directions of the gradients of -log p of the tokens marked in `taught`.

    What training on them would move its output along. The gradients of all positions count, each at length 1. `ids` are
    padded on the right.

    Raises:
        InputError: `count` is below 1, or no token with another in front is marked.
    """
    if not taught[:, 1:].any():
        raise InputError("directions: found no token that is taught, wanted at least one with another in front of it")
    layers = range(decoder.n_layers)
    with torch.enable_grad(), streams_after(decoder.blocks, layers) as streams:
        loss = marked_losses(decoder, ids, taught)[0].sum()
        gradients = torch.autograd.grad(loss, [streams[layer] for layer in layers])
    found = [gradient.flatten(0, 1).cpu().double() for gradient in gradients]
    return [principal(torch.nn.functional.normalize(each, dim=-1, eps=1e-30), count) for each in found]


def principal(vectors: Float[Tensor, "vector d_model"], count: int) -> Basis:
    """At most `count` principal directions, the strongest first: right singular vectors, with no mean taken off.

    Raises:
        InputError: `count` is below 1, or there are no vectors but zeros.
    """
    if count < 1:
        raise InputError(f"directions: found {count}, wanted 1 or more")
    _, sizes, found = torch.linalg.svd(vectors.detach().cpu().double(), full_matrices=False)
    if not len(sizes) or not sizes[0] > 0:
        raise InputError(f"directions: found {len(vectors)} vectors and none but zeros, wanted one that is not")
    return found[: min(count, int((sizes > NEGLIGIBLE * sizes[0]).sum()))].float()


def contrast(one: Float[Tensor, "left d_model"], other: Float[Tensor, "right d_model"]) -> Basis:
    """The difference of means of two sets of activations: of prompts that have the concept, and of prompts without.

    Raises:
        InputError: one side is empty, or both have the same mean.
    """
    for side, vectors in (("first", one), ("second", other)):
        if not len(vectors):
            raise InputError(f"contrast: found no prompt on the {side} side, wanted at least one on each")
    return principal((one.mean(0) - other.mean(0))[None], 1)


def unembedding(decoder: Decoder, tokens: Sequence[int]) -> Basis:
    """What the unembedding's rows of some tokens span: the directions that raise their logits.

    Raises:
        InputError: there is no token, or the model does not have one.
    """
    weight = decoder.head.get_parameter("weight")
    if not tokens or not all(0 <= token < len(weight) for token in tokens):
        raise InputError(
            f"unembedding: found tokens {list(tokens)}, wanted at least one, all of 0 to {len(weight) - 1}"
        )
    return principal(weight[list(tokens)], len(tokens))


def random(count: int, width: int, seed: int) -> Basis:
    """Directions that stand for nothing, drawn for a seed: what any other basis is held against.

    Raises:
        InputError: `count` is not between 1 and the width.
    """
    if not 1 <= count <= width:
        raise InputError(f"directions: found {count}, wanted 1 to {width} (the width of the residual stream)")
    drawn = keyed_rng(seed, "random directions").standard_normal((width, count))
    return torch.from_numpy(np.linalg.qr(drawn)[0].T.astype(np.float32))
