"""A sparse autoencoder of activations: each is made up of a few of many learned directions (TopK, Gao et al. 2024)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..model.opening import ModelCard
from ..run.errors import InputError
from .dictionary import Dictionary, plain

WIDTH, ACTIVE = 8, 12
"""Features for each dimension of the residual stream, and how many of them an activation has at most."""
STEPS, BATCH, LEARNING_RATE = 1000, 256, 2e-3


def trained(streams: Float[Tensor, "row d_model"], card: ModelCard, layer: int, seed: int) -> Dictionary:
    """The dictionary whose ACTIVE strongest features make up these activations with the least squared error.

    Adam on STEPS batches that a generator of this seed draws; activations are centred and at mean length 1 meanwhile,
    the directions at length 1 throughout.

    Raises:
        InputError: there is no activation.
    """
    if not len(streams):
        raise InputError("sparse autoencoder: found no activations, wanted some to learn from")
    count, width = WIDTH * card.d_model, card.d_model
    draw = torch.Generator().manual_seed(seed)
    centre = streams.mean(0)
    scale = (streams - centre).norm(dim=-1).mean()
    start = torch.nn.functional.normalize(torch.randn(count, width, generator=draw), dim=-1)
    directions, encoder = start.clone().requires_grad_(), start.T.clone().requires_grad_()
    bias, shift = torch.zeros(count, requires_grad=True), torch.zeros(width, requires_grad=True)
    optimizer = torch.optim.Adam([directions, encoder, bias, shift], lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(streams), (BATCH,), generator=draw)
        batch = (streams[rows] - centre) / scale
        before = (batch - shift) @ encoder + bias
        most = before.topk(min(ACTIVE, count), -1)
        active = torch.zeros_like(before).scatter(-1, most.indices, most.values.relu())
        optimizer.zero_grad()
        (active @ directions + shift - batch).square().sum(-1).mean().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            directions /= directions.norm(dim=-1, keepdim=True)
    return replace(
        plain("sparse autoencoder", card, layer, directions.detach(), centre + scale * shift.detach()),
        encoder=encoder.detach(),
        bias=scale * bias.detach(),
        settings={"architecture": "topk", "k": min(ACTIVE, count), "apply_b_dec_to_input": True},
    )


def unexplained(dictionary: Dictionary, streams: Float[Tensor, "row d_model"]) -> float:
    """The share of the activations' variance that the features leave."""
    made = dictionary.activations(streams) @ dictionary.directions + dictionary.centre
    return float((made - streams).square().sum() / (streams - streams.mean(0)).square().sum())
