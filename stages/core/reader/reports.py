"""What a reader reports: its prompt with vectors in the slots, the losses of given reports, and reports it writes."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ..engine.batches import in_batches, plan
from ..engine.prefix import takes_padding
from ..model.packed import packed_linears
from .injection import ReadingPrompt, read_injected, reading_prompt
from .reader import SLOTS, Reader
from .vocabulary import in_parts
from .writing import written


def prompt_of(reader: Reader, host: str | None) -> ReadingPrompt:
    """The reading prompt for a host prompt (None: no host)."""
    return reading_prompt(reader.decoder, host, reader.card.slot_token, len(SLOTS))


def read_slots(
    reader: Reader,
    prompts: Sequence[ReadingPrompt],
    tails: Sequence[Sequence[int]],
    vectors: Float[Tensor, "batch k d_model"] | None,
) -> Float[Tensor, "batch position d_model"]:
    """The normed residual stream of prompts and what follows them, the vectors injected as the card says.

    See `read_injected`; None: nothing is injected. With LoRA on the verbaliser this is what it makes of the prompt,
    with vectors or without.
    """
    with reader.verbaliser():
        return _read(reader, prompts, tails, vectors, None)


def _read(
    reader: Reader,
    prompts: Sequence[ReadingPrompt],
    tails: Sequence[Sequence[int]],
    vectors: Float[Tensor, "batch k d_model"] | None,
    cache: DynamicCache | None,
) -> Float[Tensor, "batch position d_model"]:
    return read_injected(reader.decoder, prompts, tails, vectors, reader.card.injection, reader.card.norm, cache)


def report_losses(
    reader: Reader,
    hosts: Sequence[str | None],
    reports: Sequence[Sequence[int]],
    vectors: Float[Tensor, "batch k d_model"],
) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """Cross-entropy (nats) of every token of given reports, and each token's row; logits at those tokens only."""
    prompts = [prompt_of(reader, host) for host in hosts]
    hidden = read_slots(reader, prompts, [report[:-1] for report in reports], vectors)
    lengths = torch.tensor([len(report) for report in reports], device=hidden.device)
    row = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
    column = [
        len(prompt.ids) - 1 + offset
        for prompt, report in zip(prompts, reports, strict=True)
        for offset in range(len(report))
    ]
    last = hidden[row, torch.tensor(column, device=hidden.device)]
    said = torch.tensor([token for report in reports for token in report], device=hidden.device)

    def losses(at: slice) -> Tensor:
        return torch.nn.functional.cross_entropy(reader.decoder.logits(last[at]), said[at], reduction="none")

    return torch.cat(in_parts(losses, len(said), reader.decoder.vocabulary)), row


@torch.no_grad()
def written_reports(
    reader: Reader,
    hosts: Sequence[str | None],
    gradients: Float[Tensor, "batch layer d_model"] | None,
    tokens: int,
    batch: int = 256,
) -> list[str]:
    """Greedy reports of at most `tokens` tokens, one a host prompt; `gradients` None: without injection."""
    vectors = None
    if gradients is not None:
        vectors = torch.cat([reader.vectors(part) for part in gradients.split(batch)])
    return reports_of(reader, hosts, vectors, tokens, batch)


@torch.no_grad()
def reports_of(
    reader: Reader,
    hosts: Sequence[str | None],
    vectors: Float[Tensor, "batch k d_model"] | None,
    tokens: int,
    batch: int = 256,
) -> list[str]:
    """Greedy reports of at most `tokens` tokens, one a host prompt; `vectors`: the slots' (None: without injection)."""
    tokenizer = reader.decoder.tokenizer
    assert tokenizer is not None
    prompts = [prompt_of(reader, host) for host in hosts]
    lengths = [(len(prompt.ids), 0) for prompt in prompts]
    join = "any" if takes_padding(reader.decoder) else "equal"
    reports = [""] * len(prompts)

    def write(rows: Int[np.ndarray, " row"]) -> tuple[Int[np.ndarray, " row"], list[tuple[int, ...]]]:
        chosen = None if vectors is None else vectors[torch.from_numpy(rows).to(vectors.device)]
        return rows, write_tokens(reader, [prompts[row] for row in rows], chosen, tokens)

    batches = plan(lengths, tokens=batch * max(lengths, default=(0, 0))[0], rows=batch, join=join)
    for rows, texts in in_batches(batches, write, None):
        for row, ids in zip(rows, texts, strict=True):
            reports[row] = str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
    return reports


@torch.no_grad()
def write_tokens(
    reader: Reader, prompts: Sequence[ReadingPrompt], vectors: Float[Tensor, "batch k d_model"] | None, tokens: int
) -> list[tuple[int, ...]]:
    """At most `tokens` greedy tokens, one text a prompt; see `read_slots`. The end of a text is not part of it."""
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=reader.decoder.device)
    cache = DynamicCache()
    with reader.verbaliser(), packed_linears(reader.decoder.model):
        hidden = _read(reader, prompts, [()] * len(prompts), vectors, cache)
        return written(reader.decoder, hidden, cache, lengths, tokens)
