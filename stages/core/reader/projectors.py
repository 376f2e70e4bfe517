"""Projectors: maps from the update direction to the vectors that fill the slots.

Each takes the normalised update direction of one or more layers and the gradient's strength, and returns one vector a
slot (its norm is set by the injection). To add an architecture, write a class here and name it in ARCHITECTURES.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

STRENGTH_BOUND = 5.0
"""The strength feature, ln(|g| / reference), is clipped to plus or minus this; a gradient of zero is at minus this."""

STRONGEST = 2.5
"""In training a gradient is scaled to exp(x) times the reference norm, x uniform from minus this to this."""

DROPOUT = 0.2

RIDGE = 1e-3
"""Added to every variance before whitening, as a share of their mean: what hardly varies is not blown up."""


def features(
    gradient: Float[Tensor, "batch layer d_model"], reference: Float[Tensor, " layer"]
) -> tuple[Float[Tensor, "batch layer*d_model"], Float[Tensor, "batch 1"]]:
    """The update direction -g, each layer's part normalised to sqrt(d_model) (zero stays zero), and the strength.

    Strength: the mean over layers of ln(|g_l| / reference_l), clipped to STRENGTH_BOUND.
    """
    norm = gradient.norm(dim=-1)
    direction = torch.nn.functional.normalize(-gradient, dim=-1) * gradient.shape[-1] ** 0.5
    strength = (norm / reference).clamp_min(1e-12).log().mean(-1, keepdim=True)
    return direction.flatten(1), strength.clamp(-STRENGTH_BOUND, STRENGTH_BOUND)


class BiasOnly(nn.Module):
    """Ignores the gradient: the same learned vectors always. What it reports is the template."""

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(slots, d_model))

    def forward(self, direction: Float[Tensor, "b f"], strength: Float[Tensor, "b 1"]) -> Float[Tensor, "b k d"]:
        return self.bias.expand(len(direction), -1, -1)


class Scale(nn.Module):
    """One scale a slot and layer, nothing else: the direction itself. The strength is not read; zero stays zero."""

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(slots, layers))

    def forward(self, direction: Float[Tensor, "b f"], strength: Float[Tensor, "b 1"]) -> Float[Tensor, "b k d"]:
        return self.scale @ direction.unflatten(1, (self.scale.shape[1], -1))


class ScalarAffine(nn.Module):
    """One scale a slot and layer, and a bias a slot: the direction itself, with no change of basis."""

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(slots, layers))
        self.strength = nn.Parameter(torch.zeros(slots, d_model))
        self.bias = nn.Parameter(torch.zeros(slots, d_model))

    def forward(self, direction: Float[Tensor, "b f"], strength: Float[Tensor, "b 1"]) -> Float[Tensor, "b k d"]:
        layers = direction.unflatten(1, (self.scale.shape[1], -1))
        return self.scale @ layers + strength[..., None] * self.strength + self.bias


class Linear(nn.Module):
    """One full matrix a slot, and a bias."""

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__()
        self.slots = slots
        self.map = nn.Linear(layers * d_model + 1, slots * d_model)

    def forward(self, direction: Float[Tensor, "b f"], strength: Float[Tensor, "b 1"]) -> Float[Tensor, "b k d"]:
        return self.map(torch.cat([direction, strength], 1)).unflatten(1, (self.slots, -1))


class LowRank(Linear):
    """A linear map through a bottleneck of `width` dimensions."""

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__(layers, d_model, slots, width)
        down = nn.Linear(layers * d_model + 1, width, bias=False)
        self.map = nn.Sequential(down, nn.Linear(width, slots * d_model))  # type: ignore[assignment]


class MLP(Linear):
    """One hidden layer of `width` units with GELU; in training a share DROPOUT of them is dropped at random."""

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__(layers, d_model, slots, width)
        hidden = nn.Linear(layers * d_model + 1, width)
        parts = hidden, nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(width, slots * d_model)
        self.map = nn.Sequential(*parts)  # type: ignore[assignment]


class MirrorMLP(nn.Module):
    """An MLP whose last two slots are read by one map, from the direction and from its negative.

    What an update moves toward is what its negative moves away from, so both share all they learn.
    """

    def __init__(self, layers: int, d_model: int, slots: int, width: int) -> None:
        super().__init__()
        self.first = MLP(layers, d_model, slots - 2, width)
        self.entity = MLP(layers, d_model, 1, width)

    def forward(self, direction: Float[Tensor, "b f"], strength: Float[Tensor, "b 1"]) -> Float[Tensor, "b k d"]:
        parts = self.first(direction, strength), self.entity(direction, strength), self.entity(-direction, strength)
        return torch.cat(parts, 1)


ARCHITECTURES: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "bias_only": BiasOnly,
    "scale": Scale,
    "scalar_affine": ScalarAffine,
    "linear": Linear,
    "low_rank": LowRank,
    "mlp": MLP,
    "mirror_mlp": MirrorMLP,
}


class Whitened(nn.Module):
    """Another projector behind a whitening of the direction. The matrix is kept with the weights, as a buffer."""

    def __init__(self, projector: nn.Module, size: int) -> None:
        super().__init__()
        self.projector = projector
        self.register_buffer("matrix", torch.eye(size))

    def forward(self, direction: Float[Tensor, "b f"], strength: Float[Tensor, "b 1"]) -> Float[Tensor, "b k d"]:
        return self.projector(direction @ self.matrix, strength)

    @torch.no_grad()
    def fit(self, blocks: Iterable[Float[Tensor, "_ f"]]) -> None:
        """Takes the matrix from training directions, some rows at a time; see `whitening`."""
        self.matrix = whitening(blocks).to(self.matrix)


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
