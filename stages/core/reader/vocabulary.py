"""The model's vocabulary in pieces: what has a number for each of its tokens is made for some rows at a time.

At 262 000 tokens one row of logits takes a megabyte, and the embedding matrix as much as a small model. Nothing here
copies that matrix whole, and its readers share it.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..model.decoder import Decoder

Result = TypeVar("Result")
LOGITS_BYTES = 2**30
"""What the numbers of some rows for all tokens take together."""
TENSORS = 4
"""Float32 tensors of them in memory at a time: scores, their softmax, and the gradients of both."""
EMBEDDINGS_BYTES = 2**27
"""What the token embeddings that are made at a time take."""


def in_parts(make: Callable[[slice], Result], rows: int, numbers: int) -> list[Result]:
    """What `make` makes of all rows, some at a time: at once where LOGITS_BYTES allow it.

    Where there are several parts and gradients are wanted, each part is made again in the backward pass.

    `rows`: how many there are; none count as one empty part. `numbers`: of a row in each of TENSORS tensors.
    """
    size = max(1, LOGITS_BYTES // (4 * TENSORS * numbers))
    parts = [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]
    if len(parts) == 1:
        return [make(parts[0])]
    return [made_again(make, part) for part in parts]


def made_again(make: Callable[..., Result], *given: object) -> Result:
    """What `make` makes; in a backward pass it's made a second time, so that nothing is kept until then."""
    if not torch.is_grad_enabled():
        return make(*given)
    return checkpoint(make, *given, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


class Tokens:
    """The directions (norm 1) of the tokenizer's tokens: rows of the model's embeddings, or of its head (`output`)."""

    def __init__(self, decoder: Decoder, output: bool = False) -> None:
        self.decoder, self.count, self.output = decoder, len(decoder.tokenizer or ()), output
        size = max(1, EMBEDDINGS_BYTES // (4 * decoder.d_model))
        ids = torch.arange(self.count, device=decoder.device)
        self.parts: tuple[Int[Tensor, " _"], ...] = ids.split(size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, ids: Int[Tensor, "*batch"] | int) -> Float[Tensor, "*batch d_model"]:
        """The directions of some tokens."""
        if not self.output:
            return F.normalize(self.decoder.embed(torch.as_tensor(ids)).float(), dim=-1)
        weight = self.decoder.head.weight
        assert isinstance(weight, Tensor)
        return F.normalize(weight[torch.as_tensor(ids).to(weight.device)].to(self.decoder.device).float(), dim=-1)

    def cosines(self, vectors: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """The cosine of each vector to each token's direction."""
        unit = F.normalize(vectors, dim=-1)
        if len(self.parts) == 1:
            return unit @ self[self.parts[0]].T
        return torch.cat([made_again(lambda unit, ids: unit @ self[ids].T, unit, ids) for ids in self.parts], -1)


def embedding_norm(decoder: Decoder) -> float:
    """The mean norm of the model's input embeddings: the norm at which vectors are written into slots."""
    size = max(1, EMBEDDINGS_BYTES // (4 * decoder.d_model))
    ids = torch.arange(decoder.embedding.weight.shape[0], device=decoder.device)  # type: ignore[union-attr]
    return torch.cat([decoder.embed(part).float().norm(dim=-1) for part in ids.split(size)]).mean().item()


@torch.no_grad()
def final_gain(decoder: Decoder) -> Float[Tensor, " d_model"]:
    """What the final norm multiplies each dimension by, read off a vector of mean 0 and mean square 1."""
    signs = torch.ones(decoder.d_model, dtype=decoder.dtype, device=decoder.device)
    signs[1::2] = -1
    return ((decoder.norm(signs) - decoder.norm(-signs)) * signs / 2).float()
