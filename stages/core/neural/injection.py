"""Where a vector goes into the model: the prompt with its slots, and the replacement of the slots' embeddings.

Training and reports use the same two functions, so a projector is trained on exactly what it will be used for.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.core.neural.decoder import Decoder
from stages.core.wording import QUESTION


@dataclass(frozen=True)
class ReadingPrompt:
    """Token ids of a host prompt, the slots and the question; `slots` are the slots' positions in `ids`."""

    ids: list[int]
    slots: list[int]


def reading_prompt(decoder: Decoder, host: str | None, slot_token: str, slots: int) -> ReadingPrompt:
    """The prompt that the model reads when it reports: host, slots, question; as a user's turn where it has chat turns.

    Raises:
        ValueError: the tokenizer does not turn `slot_token` into one token of its own, so that slots can't be found.
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
        raise ValueError(
            f"projector.slot_token: {slot_token!r} stands {len(found)} times in the tokens of a reading prompt, wanted "
            f"{slots} in a row: choose a single token of this model's vocabulary that no host prompt contains"
        )
    return ReadingPrompt(ids, found)


def embedding_norm(decoder: Decoder) -> float:
    """The mean norm of the model's input embeddings: the norm at which vectors are written into slots."""
    ids = torch.arange(decoder.embedding.weight.shape[0], device=decoder.device)  # type: ignore[union-attr]
    return decoder.embed(ids).float().norm(dim=-1).mean().item()


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
    scaled = torch.nn.functional.normalize(vectors, dim=-1) * norm
    return embeds.index_put((rows, slots), scaled.to(embeds.dtype))
