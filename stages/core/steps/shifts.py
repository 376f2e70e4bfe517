"""The shift of the next-token distribution after an injection: log p' - log p over the vocabulary, in nats."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..model.decoder import Decoder

CHUNK = 64
SLICE_ELEMENTS = {"cpu": 2**20, "cuda": 2**28}
"""Logits at a time: what stays in a CPU's caches; on a GPU, a gigabyte."""
SAFE_EXPONENT = 80.0
"""Largest exponent whose power is finite in float32."""


def named_tokens(decoder: Decoder) -> int:
    """The number of tokens that the tokenizer knows; ids from there on are padding of the embedding."""
    return min(decoder.vocabulary, len(decoder.tokenizer)) if decoder.tokenizer else decoder.vocabulary


@torch.no_grad()
def measure_shifts(
    decoder: Decoder,
    before: Float[Tensor, "b d_model"],
    after: Float[Tensor, "b version d_model"],
    still: Float[Tensor, "b version"],
    target: Int[Tensor, " b"],
    answer: Int[Tensor, " b"],
    top_tokens: int,
) -> dict[str, Tensor]:
    """Shifts of the next-token distributions, some rows at a time, since logits are the largest tensors.

    Args:
        before: normed residual stream of the clean pass at the answer position.
        after: the same of the versions.
        still: 1 where a version is the clean pass (nothing was injected), else 0: its shift is exactly zero.
        target: first target token a row.
        answer: first answer token a row; -1 where there is none (its log-probabilities are NaN).
        top_tokens: how many tokens up and down, of those that have a name.

    Returns:
        By the names that `ShiftBatch` has, [b, version, ...]; `target_before`, `answer_before` and `top_before` (the
        most likely token before) are [b], `top` is the most likely token after.
    """
    versions = after.shape[1]

    def part(rows: slice) -> dict[str, Tensor]:
        clean = decoder.logits(before[rows])
        logprob = clean.log_softmax(-1)
        prob = logprob.exp()[..., None]
        change = decoder.logit_difference(before[rows, None], after[rows]).mul_((1 - still[rows])[..., None])
        # Around its mean under p, so that nothing below is a difference of large numbers.
        # shift = change - log sum p e^change.
        change -= change @ prob
        excess = change.clamp(max=SAFE_EXPONENT).expm1_()
        partition = torch.log1p(excess @ prob)
        grown = excess.mul_(change) @ prob + change @ prob
        kl = (grown / partition.exp() - partition)[..., 0]
        named = change[..., : named_tokens(decoder)]
        up, down = _extremes(named, top_tokens, largest=True), _extremes(named, top_tokens, largest=False)
        moved = change.add_(logprob[:, None])

        def of(token: Int[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, "b version 1"]]:
            known, safe = token >= 0, token.clamp(min=0)
            one = logprob.gather(-1, safe[:, None])[:, 0]
            two = moved.gather(-1, safe[:, None, None].expand(-1, versions, 1))
            return one.masked_fill(~known, torch.nan), two.masked_fill(~known[:, None, None], torch.nan)

        target_before, target_after = of(target[rows])
        answer_before, answer_after = of(answer[rows])
        top = moved.argmax(-1)
        # In place and counted in floats, which hold any vocabulary's size: several times faster than booleans.
        rank = moved.gt_(target_after).sum(-1).long() + 1
        return {
            "up_ids": up[1],
            "up_shifts": up[0] - partition,
            "down_ids": down[1],
            "down_shifts": down[0] - partition,
            # Rounding can leave a step that changes next to nothing a little below zero.
            "kl": kl.clamp(min=0),
            "target_before": target_before,
            "target_after": (target_after - partition)[..., 0],
            "answer_before": answer_before,
            "answer_after": (answer_after - partition)[..., 0],
            "target_rank": rank,
            "top_before": clean.argmax(-1),
            "top": top,
        }

    most = SLICE_ELEMENTS.get(after.device.type, SLICE_ELEMENTS["cpu"])
    size = max(1, most // (versions * decoder.vocabulary))
    parts = [part(slice(start, start + size)) for start in range(0, len(before), size)]
    found = {name: torch.cat([one[name] for one in parts]) for name in parts[0]}
    return {name: values.float() if values.is_floating_point() else values for name, values in found.items()}


def _extremes(
    values: Float[Tensor, "b version named"], count: int, *, largest: bool
) -> tuple[Float[Tensor, "b version top"], Int[Tensor, "b version top"]]:
    """The `count` largest (or smallest) entries and their indices.

    Those of the chunks with the largest maxima (smallest minima), which must hold them all.
    """
    chunks = values.shape[-1] // CHUNK
    if chunks < 4 * count:
        found = values.topk(count, largest=largest)
        return found.values, found.indices
    whole = values[..., : chunks * CHUNK].unflatten(-1, (chunks, CHUNK))
    bounds = whole.amax(-1) if largest else whole.amin(-1)
    best = bounds.topk(count, largest=largest).indices
    held = whole.gather(-2, best[..., None].expand(*best.shape, CHUNK)).flatten(-2)
    places = (best[..., None] * CHUNK + torch.arange(CHUNK, device=values.device)).flatten(-2)
    rest = torch.arange(chunks * CHUNK, values.shape[-1], device=values.device)
    held = torch.cat([held, values[..., chunks * CHUNK :]], dim=-1)
    places = torch.cat([places, rest.expand(*places.shape[:-1], -1)], dim=-1)
    found = held.topk(count, largest=largest)
    return found.values, places.gather(-1, found.indices)
