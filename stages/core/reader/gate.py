"""When a reader keeps silent: a pressure is reported if entities are named clearly and explain the update direction."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .projectors import RIDGE

LOGIT_99 = math.log(99)


class Gate(nn.Module):
    """Tells update directions from vectors that are none; open until it is set. Kept with the projector's weights.

    The evidence for a pressure is the product of two cosines. Clarity: the largest to a token (but `silence`), mean
    over the two entity slots; a sham may name one entity by chance, hardly two. Explained: between the update direction
    and what the two slots' contents say that it should be, by a linear map from their difference (`back`); a sham that
    happens to lie near two entities is not made of them. In mirror_mlp a sign flip leaves the evidence unchanged.
    """

    back: Tensor
    threshold: Tensor
    typical: Tensor

    def __init__(self, d_model: int, layers: int, silence: int) -> None:
        super().__init__()
        self.silence = silence
        self.register_buffer("back", torch.zeros(d_model, layers * d_model))
        self.register_buffer("threshold", torch.tensor(-1.0))  # the evidence is never below -1
        self.register_buffer("typical", torch.tensor(1.0))

    def explain(self, blocks: Iterable[tuple[Float[Tensor, "_ k d_model"], Float[Tensor, "_ f"]]]) -> None:
        """Takes `back` from training gradients: the ridge regression of directions on contents, in float64.

        `blocks`: what the slots hold, and the update directions, some rows at a time.
        """
        moment = product = torch.zeros((), dtype=torch.float64, device=self.back.device)
        for slots, directions in blocks:
            contents = difference(slots).double()
            moment, product = moment + contents.T @ contents, product + contents.T @ directions.double()
        ridge = RIDGE * moment.diagonal().mean() * torch.eye(len(moment), device=moment.device)
        self.back = torch.linalg.solve(moment + ridge, product).float()

    def evidence(
        self,
        cosines: Float[Tensor, "batch k vocabulary"],
        slots: Float[Tensor, "batch k d_model"],
        directions: Float[Tensor, "batch f"],
    ) -> Float[Tensor, " batch"]:
        """Clarity times explained, -1 to 1.

        Args:
            cosines: of what the projector gave for each slot, to the model's tokens.
            slots: what the slots then hold.
            directions: the update directions that were read, all layers.
        """
        named = cosines[:, 1:].clone()
        named[..., self.silence] = -1
        return named.amax(-1).mean(-1) * F.cosine_similarity(difference(slots) @ self.back, directions, dim=-1)

    def set(self, evidence: Float[Tensor, " n"], share: float) -> None:
        """The threshold at a share of the median of this evidence of real gradients."""
        self.typical = evidence.median()
        self.threshold = share * self.typical

    def confidence(self, evidence: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The evidence as a probability: 0.5 at the threshold, 0.99 for the median gradient, logistic between."""
        return ((evidence - self.threshold) * LOGIT_99 / (self.typical - self.threshold).clamp_min(1e-6)).sigmoid()


def difference(slots: Float[Tensor, "n k d_model"]) -> Float[Tensor, "n d_model"]:
    """The direction of what is moved to minus that of what is moved from, each of norm 1."""
    return F.normalize(slots[:, 1], dim=-1) - F.normalize(slots[:, 2], dim=-1)
