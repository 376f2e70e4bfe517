"""A linear map in closed form, from gradients at one place to the update direction that is read without any map.

At the last prompt token, after the last block, slots take the raw update direction. At another place the same update is
another vector. The map here turns the one into the other as well as least squares can; no label and no report is used,
and the model is not asked.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.checkpoints import one_thread
from .projectors import RIDGE, Linear, directions
from .reader import Reader


@one_thread()
@torch.no_grad()
def fit_map(
    reader: Reader, pairs: Iterable[tuple[Float[Tensor, "_ vector d_model"], Float[Tensor, "_ d_model"]]]
) -> None:
    """Sets a linear projector of one place and one slot to W with the least sum of |W x - y|^2 + r |W|^2.

    `pairs`: gradients at the reader's place, and those of the same rows where they are read raw, some rows at a time;
    x is the update directions of the first as the projector takes them, y that of the second, of norm 1. r is RIDGE
    times the mean of the moments of x, times the number of rows. There is no bias, so that a gradient with its sign
    flipped is read with its sign flipped. In float64, on one thread: however many there are, the bytes are the same.
    """
    assert isinstance(reader.projector, Linear) and len(reader.card.places) == reader.card.slots == 1
    layer = reader.projector.map
    assert isinstance(layer, nn.Linear)
    size = layer.in_features
    moment, cross = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, reader.card.d_model).double()
    for there, read in pairs:
        x = directions(reader.by_place(there))[:, 0].double().cpu()
        moment += x.T @ x
        cross += x.T @ F.normalize(-read.double(), dim=-1)
    penalty = RIDGE * moment.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    layer.weight.copy_(torch.linalg.solve(moment + penalty, cross).T)
    layer.bias.zero_()
