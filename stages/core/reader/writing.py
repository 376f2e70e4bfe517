"""What a model writes after a reading pass: greedy text, from the pass's own keys and values."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from ..engine.continuation import greedy
from ..engine.prefix import Padding
from ..model.decoder import Decoder


@torch.no_grad()
def written(
    decoder: Decoder,
    firsts: Int[Tensor, " row"],
    cache: DynamicCache,
    lengths: Int[Tensor, " row"],
    tokens: int,
) -> list[tuple[int, ...]]:
    """At most `tokens` greedy tokens, one text a row. The token that ends a text is not part of it.

    Args:
        decoder: the model.
        firsts: each row's first token.
        cache: what the pass gave; rows begin at 0 and are padded on the right. The cache is used up.
        lengths: each row's own tokens.
        tokens: most tokens of a text.
    """
    return greedy(decoder, cache, lay_right(cache, lengths), firsts, tokens)


def lay_right(cache: DynamicCache, lengths: Int[Tensor, " row"]) -> Padding:
    """Moves each row's keys and values, which begin at 0, to the cache's right end, where further tokens follow.

    Returns:
        How the rows lie then, without their last token, as `greedy` takes it.
    """
    width = int(lengths.max())
    shift = width - lengths[:, None]
    if bool(shift.any()):
        origin = (torch.arange(width, device=lengths.device) - shift).clamp_min(0)
        rows = torch.arange(len(lengths), device=lengths.device)[:, None]
        for layer in cache.layers:
            for name in ("keys", "values"):  # [row, head, token, width]
                kept = getattr(layer, name).transpose(1, 2)
                setattr(layer, name, kept[rows.to(kept.device), origin.to(kept.device)].transpose(1, 2))
    return Padding(width - 1, lengths - 1)
