"""Where a vector goes into the model: the prompt with its slots, and the pass that reads it with vectors injected.

Training and reports use the same two functions, so a projector is trained on exactly what it will be used for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from ..data.grammar import QUESTION
from ..model.decoder import Decoder, residual, with_residual
from ..run.errors import InputError
from .card import Injection
from .vocabulary import embedding_norms


@dataclass(frozen=True)
class ReadingPrompt:
    """Token ids of a host prompt, the slots and the question; `slots` are the slots' positions in `ids`."""

    ids: list[int]
    slots: list[int]


def reading_prompt(decoder: Decoder, host: str | None, slot_token: str, slots: int) -> ReadingPrompt:
    """The prompt that the model reads when it reports: host, slots, question; as a user's turn where it has chat turns.

    Raises:
        InputError: the tokenizer does not turn `slot_token` into one token of its own, so that slots can't be found.
    """
    tokenizer = decoder.tokenizer
    assert tokenizer is not None
    slot_id = tokenizer.convert_tokens_to_ids(slot_token)
    text = " ".join(part for part in (host, slot_token * slots, QUESTION) if part)
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": text}]
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = decoder.tokens(text)
    found = [position for position, token in enumerate(ids) if token == slot_id]
    if len(found) != slots or found != list(range(found[0], found[0] + slots)):
        raise InputError(
            f"projector.slot_token: {slot_token!r} stands {len(found)} times in the tokens of a reading prompt, wanted "
            f"{slots} in a row: choose a single token of this model's vocabulary that no host prompt contains"
        )
    return ReadingPrompt(ids, found)


def embedding_norm(decoder: Decoder) -> float:
    """The mean norm of the model's input embeddings: the norm at which vectors are written into slots."""
    return torch.cat(list(embedding_norms(decoder))).mean().item()


def check_injection(decoder: Decoder, how: Injection) -> None:
    """Checks that the model has the block, and that something reads what is added.

    Raises:
        InputError: it has not; or the slots are added to after the last block, where no other position looks at them.
    """
    if how.block is None:
        return
    decoder.check_layer(how.block, key="projector.injection.block")
    if how.at == "slots" and how.block == decoder.n_layers - 1:
        raise InputError(
            f"projector.injection.block: found {how.block}, wanted less with at slots: after the last block no other "
            "position looks at the slots"
        )


def read_injected(
    decoder: Decoder,
    prompts: Sequence[ReadingPrompt],
    tails: Sequence[Sequence[int]],
    vectors: Float[Tensor, "batch k d_model"] | None,
    how: Injection,
    norm: float,
    cache: DynamicCache | None = None,
) -> Float[Tensor, "batch position d_model"]:
    """Reads prompts and what follows them, with the vectors injected. The one way in, for training and for reports.

    - replace: the embeddings at the slots become the slots' vectors, each scaled to `how.scale` times `norm`. All other
      embeddings stay as they are.
    - add: after block `how.block` the residual stream h becomes h + scale |h| v at the chosen positions (norm-matched:
      what is added has `scale` times the norm of h there), for a unit vector v. Other positions and earlier blocks stay
      as they are. At the slots, v is the slot's own vector; at the prompt's last token or at every token of it
      (special tokens and template included), v is `merged`.
    - no vectors: nothing is injected, and the slots keep the slot token's own embedding.

    What follows the prompt (`tails`, and what is generated later) is never injected into.

    Args:
        decoder: the model.
        prompts, tails: rows are padded on the right, where a causal model never looks.
        vectors: what goes in; only their directions count.
        how: where it goes and how strongly.
        norm: the mean norm of embeddings.
        cache: filled with the rows' keys and values; None: they aren't kept.

    Returns:
        The normed residual stream after the last block.
    """
    rows = [[*prompt.ids, *tail] for prompt, tail in zip(prompts, tails, strict=True)]
    width = max(map(len, rows))
    embeds = decoder.embed(torch.tensor([row + [0] * (width - len(row)) for row in rows]))
    arguments = {"use_cache": cache is not None, "past_key_values": cache}
    if vectors is not None and how.how == "replace":
        embeds = replace_slots(embeds, slots_of(prompts, embeds.device), vectors, how.scale * norm)
    if vectors is None or how.block is None:
        return decoder.body(inputs_embeds=embeds, **arguments).last_hidden_state
    directions = spread(prompts, vectors, how.at, width)

    def add(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        stream = residual(output)
        size = how.scale * stream.float().norm(dim=-1, keepdim=True)
        return with_residual(output, stream + (size * directions.to(stream.device)).to(stream.dtype))

    handle = decoder.blocks[how.block].register_forward_hook(add)
    try:
        return decoder.body(inputs_embeds=embeds, **arguments).last_hidden_state
    finally:
        handle.remove()


def slots_of(prompts: Sequence[ReadingPrompt], device: torch.device) -> Int[Tensor, "batch k"]:
    """The slots' positions."""
    return torch.tensor([prompt.slots for prompt in prompts], device=device)


def replace_slots(
    embeds: Float[Tensor, "batch position d_model"],
    slots: Int[Tensor, "batch k"],
    vectors: Float[Tensor, "batch k d_model"],
    norm: float,
) -> Float[Tensor, "batch position d_model"]:
    """Replaces (not adds) the embeddings at `slots` by `vectors`, each scaled to `norm`.

    All other positions stay as they are.
    """
    rows = torch.arange(len(slots), device=embeds.device)[:, None]
    scaled = F.normalize(vectors, dim=-1) * norm
    return embeds.index_put((rows, slots), scaled.to(embeds.dtype))


def merged(vectors: Float[Tensor, "batch k d_model"]) -> Float[Tensor, "batch d_model"]:
    """All slots' vectors as one of norm 1: the sum of their directions, the last subtracted.

    The last slot holds what is moved away from. Were it added, "to A, away from B" and "to B, away from A" would be the
    same vector.
    """
    unit = F.normalize(vectors, dim=-1)
    return F.normalize(unit.sum(1) - 2 * unit[:, -1], dim=-1)


def spread(
    prompts: Sequence[ReadingPrompt],
    vectors: Float[Tensor, "batch k d_model"],
    at: Literal["slots", "last", "every"],
    width: int,
) -> Float[Tensor, "batch width d_model"]:
    """The unit vector that goes to each position, and zero where nothing goes."""
    device = vectors.device
    if at == "slots":
        nothing = vectors.new_zeros((len(prompts), width, vectors.shape[-1]))
        return replace_slots(nothing, slots_of(prompts, device), vectors, 1.0)
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=device)[:, None]
    position = torch.arange(width, device=device)
    chosen = position == lengths - 1 if at == "last" else position < lengths
    return chosen[..., None] * merged(vectors)[:, None]
