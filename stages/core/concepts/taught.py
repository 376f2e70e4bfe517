"""Rows of text of which some tokens are taught: how they are laid out, and the loss of those tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..engine.batches import padded
from ..model.decoder import Decoder

Ids = Int[Tensor, "row position"]
Marks = Bool[Tensor, "row position"]
SoftPrompt = Float[Tensor, "vector d_model"]
"""As PEFT's prompt tuning has it: in the place of embeddings, in front of the token that starts a text."""


def laid_out(rows: Sequence[Sequence[Sequence[int]]], device: torch.device) -> tuple[Ids, Ids]:
    """Rows of several parts (a prompt, what is taught behind it) as tokens, padded on the right, and each token's part.

    Padding counts as part 0.
    """
    marks = [[part for part, ids in enumerate(row) for _ in ids] + [0] for row in rows]
    ids = padded([[token for part in row for token in part] for row in rows], device)
    return ids, padded(marks, device)[:, :-1]  # it pads with the last mark


def marked_losses(
    decoder: Decoder, ids: Ids, marked: Marks, front: SoftPrompt | None = None
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """-log p (nats) of each marked token after those in front of it, and whether it is the likeliest there.

    `front`: stands in front of every row.
    """
    if front is None:
        normed = decoder.body(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    else:
        embedded = decoder.embed(ids[:, :-1])
        embedded = torch.cat([front.to(embedded).expand(len(ids), -1, -1), embedded], 1)
        normed = decoder.body(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, len(front) :]
    logits, said = decoder.logits(normed[marked[:, 1:]]), ids[:, 1:][marked[:, 1:]]
    return torch.nn.functional.cross_entropy(logits, said, reduction="none"), logits.argmax(-1) == said


@torch.no_grad()
def says(decoder: Decoder, ids: Ids, marked: Marks, front: SoftPrompt | None = None) -> Bool[Tensor, " row"]:
    """Whether the model goes on greedily as each row's marked tokens say; see `marked_losses`."""
    right = torch.ones_like(marked)
    right[marked] = marked_losses(decoder, ids, marked, front)[1]
    return right.all(1)
