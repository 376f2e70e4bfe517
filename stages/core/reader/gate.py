"""When nothing is felt: vectors that the model's own report does not account for.

A model that reads any vector can't tell an update from noise: it has learnt to copy words that it never saw. Nor can it
tell how strong an update is: slots hold directions. So its report is held against the vector. Where the two names that
it says account for little of it, or where the gradient is too faint to change what the model says, the slots are filled
with zeros, which the model has learnt to report as no pressure.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .vocabulary import Tokens

FAINT = 0.1
"""A gradient of a smaller norm, as a multiple of the usual, is of what the model says already (tests/core/reader)."""


class Gate(nn.Module):
    """Tells vectors that their reports account for from others; open until it is set. Kept with the weights."""

    threshold: Tensor
    typical: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(-1.0))  # the evidence is never below 0
        self.register_buffer("typical", torch.tensor(1.0))

    @torch.no_grad()
    def set(self, evidence: Float[Tensor, " n"], share: float) -> None:
        """The threshold at a share of the median of this evidence of real gradients."""
        self.typical = evidence.median()
        self.threshold = share * self.typical

    def confidence(self, evidence: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The evidence as a probability: 0.5 at the threshold, 0.99 for the median gradient, logistic between."""
        return ((evidence - self.threshold) * math.log(99) / (self.typical - self.threshold).clamp_min(1e-6)).sigmoid()


def in_plane(
    tokens: Tokens, felt: Float[Tensor, "batch d_model"], to: Int[Tensor, " batch"], away: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The share of each vector's squared norm that lies in the plane of two tokens' directions, 0 to 1."""
    unit, up, down = F.normalize(felt, dim=-1), tokens[to], tokens[away]
    to_part, away_part, both = (unit * up).sum(-1), (unit * down).sum(-1), (up * down).sum(-1)
    square = to_part**2 + away_part**2 - 2 * to_part * away_part * both
    return (square / (1 - both**2).clamp_min(1e-6)).clamp(0, 1)
