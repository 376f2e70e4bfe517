"""When nothing is felt: a code, not the model, shuts out vectors that are not made of words of the model.

A model that reads any vector can't tell an update from noise: it has learnt to copy words that it never saw. Nor can it
tell how strong an update is: slots hold directions. So what is not made of words, and what is too faint to change what
the model says, arrives as zeros, which the model has learnt to report as no pressure.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .vocabulary import Tokens, in_parts

FAINT = 0.1
"""A gradient of a smaller norm, as a multiple of the usual, is of what the model says already (tests/core/reader)."""


class Gate(nn.Module):
    """Tells update directions from vectors that are none; open until it is set. Kept with the projector's weights."""

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


def evidence(tokens: Tokens, felt: Float[Tensor, "batch d_model"]) -> Float[Tensor, " batch"]:
    """The share of a vector's norm that lies in the plane of two words, 0 to 1.

    The two are the tokens whose embeddings have the largest and the smallest cosine to the vector.
    """

    def part(at: slice) -> Tensor:
        unit = F.normalize(felt[at], dim=-1)
        cosines = tokens.cosines(unit)
        up, down = tokens[cosines.argmax(-1)], tokens[cosines.argmin(-1)]
        to, away, both = (unit * up).sum(-1), (unit * down).sum(-1), (up * down).sum(-1)
        return ((to**2 + away**2 - 2 * to * away * both) / (1 - both**2).clamp_min(1e-6)).clamp(0, 1).sqrt()

    return torch.cat(in_parts(part, len(felt), len(tokens)))
