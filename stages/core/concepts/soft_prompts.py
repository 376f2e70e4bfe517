"""Soft prompts: free vectors in front of every prompt that make a frozen model say what is wanted."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..model.decoder import Decoder
from ..run.seeds import keyed_rng
from .taught import fit

STEPS, RATE, ENOUGH = 300, 0.1, 0.01
"""Of Adam: at most so many steps, until the mean loss is so many nats: then each of 50 tokens is the likeliest."""
SoftPrompt = Float[Tensor, "vector d_model"]
"""As PEFT's prompt tuning has it: in the place of embeddings, in front of the token that starts a text."""


def fitted(
    decoder: Decoder, ids: Int[Tensor, "row position"], marked: Bool[Tensor, "row position"], count: int, seed: int
) -> SoftPrompt:
    """The `count` vectors in front of these rows that make their marked tokens likeliest; the model stays as it is."""
    vectors = _drawn((count, decoder.d_model), decoder.device, seed, "soft prompt").requires_grad_()
    if count:
        fit(decoder, torch.optim.Adam([vectors], RATE), ids, marked, STEPS, vectors, ENOUGH)
    return vectors.detach()


def noised(prompt: SoftPrompt, scale: float, seed: int) -> SoftPrompt:
    """The vectors with Gaussian noise, whose norm is about `scale` times each vector's own."""
    noise = _drawn(prompt.shape, prompt.device, seed, "noise") / prompt.shape[-1] ** 0.5
    return prompt + scale * prompt.norm(dim=-1, keepdim=True) * noise


def _drawn(shape: Sequence[int], device: torch.device, seed: int, purpose: str) -> SoftPrompt:
    return torch.from_numpy(keyed_rng(seed, purpose).standard_normal(shape, np.float32)).to(device)
