"""Where a vector goes into the model: the prompt with its slots, and the vector of each position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..data.questions import FELT, OPPOSITE
from ..model.decoder import Decoder
from ..run.errors import InputError


@dataclass(frozen=True)
class ReadingPrompt:
    """Token ids of a host prompt and a question, and the positions of its slots: of what is felt, and its negative."""

    ids: list[int]
    felt: list[int]
    opposite: list[int]

    @property
    def slots(self) -> list[int]:
        """All slots' positions."""
        return self.felt + self.opposite


@dataclass(frozen=True)
class Slots:
    """Vectors for slots: what is felt and its negative at each place, and how many places each row has."""

    felt: Float[Tensor, "row place d_model"]
    opposite: Float[Tensor, "row place d_model"]
    count: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: slice | Int[Tensor, " n"]) -> "Slots":
        """Those of some rows, by a slice or by numbers on any device."""
        at = rows if isinstance(rows, slice) else rows.to(self.count.device)
        return Slots(self.felt[at], self.opposite[at], self.count[at])

    def of(self, prompts: Sequence[ReadingPrompt]) -> Float[Tensor, "slot d_model"]:
        """The vectors of the prompts' slots, one prompt's (felt, then opposite) after another's."""
        both = torch.stack([self.felt, self.opposite])
        where = [
            (side, row, place)
            for row, prompt in enumerate(prompts)
            for side, positions in enumerate((prompt.felt, prompt.opposite))
            for place in range(len(positions))
        ]
        side, row, place = torch.tensor(where, device=both.device).T
        return both[side, row, place]


def reading_prompt(
    decoder: Decoder, host: str | None, question: str, slot_token: str, places: int, chat: bool = False
) -> ReadingPrompt:
    """The prompt that the model reads: host and question, with a slot a place; with `chat` a user's turn if it has any.

    `question` has `<felt>` where the slots go, and perhaps `<opposite>` behind it for those of the negative; without
    either it is plain text.

    Raises:
        InputError: the tokenizer does not turn `slot_token` into one token of its own, so that slots can't be found; or
            the prompt is longer than the model's context.
    """
    tokenizer = decoder.tokenizer
    assert tokenizer is not None
    slot_id = tokenizer.convert_tokens_to_ids(slot_token)
    slots = slot_token * places
    text = " ".join(part for part in (host, question.replace(FELT, slots).replace(OPPOSITE, slots)) if part)
    if chat and tokenizer.chat_template:
        turn = [{"role": "user", "content": text}]
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = decoder.tokens(text)
    found = [position for position, token in enumerate(ids) if token == slot_id]
    wanted = places * (question.count(FELT) + question.count(OPPOSITE))
    if len(found) != wanted:
        raise InputError(
            f"projector.slot_token: {slot_token!r} stands {len(found)} times in the tokens of a reading prompt, wanted "
            f"{wanted}: choose a single token of this model's vocabulary that no host prompt or question contains"
        )
    if decoder.context_length is not None and len(ids) >= decoder.context_length:
        raise InputError(
            f"question {question!r}: found {len(ids)} tokens with its host prompt, wanted fewer than the model's "
            f"context of {decoder.context_length}: ask something shorter"
        )
    return ReadingPrompt(ids, found[:places], found[places:])


def replace_slots(
    embeds: Float[Tensor, "batch position d_model"],
    prompts: Sequence[ReadingPrompt],
    vectors: Float[Tensor, "slot d_model"],
    norm: float,
) -> Float[Tensor, "batch position d_model"]:
    """Replaces (not adds) the embeddings at the prompts' slots by `vectors`, each scaled to `norm` (zero stays zero).

    All other positions stay as they are.
    """
    where = [(row, position) for row, prompt in enumerate(prompts) for position in prompt.slots]
    row, position = torch.tensor(where, device=embeds.device).T
    return embeds.index_put((row, position), (F.normalize(vectors, dim=-1) * norm).to(embeds.dtype))


def spread(
    prompts: Sequence[ReadingPrompt], slots: Slots, at: Literal["slots", "last", "every"], width: int
) -> Float[Tensor, "batch width d_model"]:
    """The unit vector that goes to each position, and zero where nothing goes.

    Outside the slots that is the direction of the sum of what is felt at all places that a row has.
    """
    felt = slots.felt
    if at == "slots":
        nothing = felt.new_zeros((len(prompts), width, felt.shape[-1]))
        return replace_slots(nothing, prompts, slots.of(prompts), 1.0)
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=felt.device)[:, None]
    position = torch.arange(width, device=felt.device)
    chosen = position == lengths - 1 if at == "last" else position < lengths
    there = torch.arange(felt.shape[1], device=felt.device) < slots.count[:, None]
    merged = (F.normalize(felt, dim=-1) * there[..., None]).sum(1)
    return chosen[..., None] * F.normalize(merged, dim=-1)[:, None]
