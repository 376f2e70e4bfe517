"""Greedy decoding of many rows that go on from a cache of keys and values."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from ..model.decoder import Decoder
from .prefix import Padding, select_rows


@torch.no_grad()
def greedy(
    decoder: Decoder, cache: DynamicCache, padding: Padding, firsts: Int[Tensor, " row"], tokens: int
) -> list[tuple[int, ...]]:
    """Greedy continuations of all rows, whose first tokens are given.

    Args:
        cache: keys and values of prefix and last prompt token; it is used up.
        padding: how the rows' prefixes lie in it.
        firsts: each row's first token, already chosen.
        tokens: most tokens a row, the first included. The context's end stops earlier.

    Returns:
        Each row's tokens; a token that ends the text stops its row and is not part of it.
    """
    ends = torch.tensor(sorted(decoder.eos_ids()), dtype=torch.long, device=firsts.device)
    most = torch.full_like(firsts, tokens)
    if decoder.context_length is not None:
        most = most.clamp(max=decoder.context_length - padding.lengths)
    texts: list[list[int]] = [[] for _ in range(len(firsts))]
    alive, current = torch.arange(len(firsts), device=firsts.device), firsts
    for step in range(tokens):
        going = ~torch.isin(current, ends) & (step < most)
        # Finished rows are taken out once they are many: taking out copies the cache.
        if step and going.sum() < 0.75 * len(going):
            select_rows(cache, going.nonzero()[:, 0])
            padding = padding.select(going)
            alive, current, most, going = alive[going], current[going], most[going], going[going]
        if not going.any():
            break
        for row, token, goes in zip(alive.tolist(), current.tolist(), going.tolist(), strict=True):
            if goes:
                texts[row].append(token)
        if step + 1 < int(most.max()):
            # A row that has ended keeps its last token as input and is ended again by it.
            normed = decoder.body(
                input_ids=current[:, None],
                past_key_values=cache,
                use_cache=True,
                **padding.arguments(1, after=1 + step, context=decoder.context_length),
            ).last_hidden_state
            following = decoder.logits(normed[:, -1]).argmax(-1)
            current = torch.where(going, following, current)
    return [tuple(text) for text in texts]
