"""Projectors: maps from the update direction at one place to the vector that fills a slot.

Each takes the normalised update directions of one or more layers, side by side, and returns a vector a slot, side by
side (the injection sets their norm); a learned map may fill several slots from one place. The same map reads the
direction's negative: what an update moves toward is what its negative moves away from. To add an architecture, write a
class here and name it in ARCHITECTURES.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

DROPOUT = 0.2

RIDGE = 1e-3
"""Added to every variance before whitening, as a share of their mean: what hardly varies is not blown up."""


def directions(gradient: Float[Tensor, "*row layer d_model"]) -> Float[Tensor, "*row layer*d_model"]:
    """The update direction -g, each layer's part normalised to sqrt(d_model) (zero stays zero), side by side."""
    unit = torch.nn.functional.normalize(-gradient, dim=-1)
    return (unit * gradient.shape[-1] ** 0.5).flatten(-2)


class Raw(nn.Module):
    """The update direction of the last of the layers itself: nothing is trained."""

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, direction: Float[Tensor, "*b f"]) -> Float[Tensor, "*b d"]:
        return direction[..., -self.d_model :]


class BiasOnly(nn.Module):
    """Ignores the gradient: the same learned vectors always. What it reports is the template."""

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(slots * d_model))

    def forward(self, direction: Float[Tensor, "*b f"]) -> Float[Tensor, "*b out"]:
        return self.bias.expand(*direction.shape[:-1], -1)


class Scale(nn.Module):
    """One scale a layer, nothing else: a sum of the layers' directions.

    The scales begin small and of either sign, so that training can turn the sign of each. With a single layer there is
    nothing to train: only the sign would count.
    """

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(layers) / 10)

    def forward(self, direction: Float[Tensor, "*b f"]) -> Float[Tensor, "*b d"]:
        return (self.scale[:, None] * direction.unflatten(-1, (len(self.scale), -1))).sum(-2)


class ScalarAffine(Scale):
    """One scale a layer, and a bias: the direction itself, with no change of basis."""

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__(layers, d_model, width, slots)
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, direction: Float[Tensor, "*b f"]) -> Float[Tensor, "*b d"]:
        return super().forward(direction) + self.bias


class Linear(nn.Module):
    """One full matrix, and a bias."""

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__()
        self.map: nn.Module = nn.Linear(layers * d_model, slots * d_model)

    def forward(self, direction: Float[Tensor, "*b f"]) -> Float[Tensor, "*b out"]:
        return self.map(direction)


class LowRank(Linear):
    """A linear map through a bottleneck of `width` dimensions."""

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__(layers, d_model, width, slots)
        self.map = nn.Sequential(nn.Linear(layers * d_model, width, bias=False), nn.Linear(width, slots * d_model))


class MLP(Linear):
    """One hidden layer of `width` units with GELU; in training a share DROPOUT of them is dropped at random."""

    def __init__(self, layers: int, d_model: int, width: int, slots: int) -> None:
        super().__init__(layers, d_model, width, slots)
        self.map = nn.Sequential(
            nn.Linear(layers * d_model, width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(width, slots * d_model)
        )


ARCHITECTURES: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "raw": Raw,
    "bias_only": BiasOnly,
    "scale": Scale,
    "scalar_affine": ScalarAffine,
    "linear": Linear,
    "low_rank": LowRank,
    "mlp": MLP,
}
ONE_SLOT = (Raw, Scale, ScalarAffine)
"""Those that fill one slot from a place: they change no basis."""


class Whitened(nn.Module):
    """Another projector behind a whitening of the direction (see `whitening`), the matrix kept with the weights."""

    matrix: Tensor

    def __init__(self, projector: nn.Module, size: int) -> None:
        super().__init__()
        self.projector = projector
        self.register_buffer("matrix", torch.eye(size))

    def forward(self, direction: Float[Tensor, "*b f"]) -> Float[Tensor, "*b out"]:
        return self.projector(direction @ self.matrix)


def whitening(blocks: Iterable[Float[Tensor, "_ f"]]) -> Float[Tensor, "f f"]:
    """The ZCA matrix (C + RIDGE m I)^(-1/2) of the directions, for C their second moment and m its mean variance.

    C is the covariance of the directions and their negatives, so that nothing is subtracted: a sign flip before
    whitening is one after it, and zero stays zero. Of all whitening matrices it moves the directions least. In float64.
    """
    rows, moment = 0, torch.zeros((), dtype=torch.float64)
    for block in blocks:
        wide = block.double()
        rows, moment = rows + len(wide), moment + wide.T @ wide
    variances, axes = torch.linalg.eigh(moment / rows)
    return ((axes * (variances + RIDGE * variances.mean()).rsqrt()) @ axes.T).float()
