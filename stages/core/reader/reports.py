"""What a reader answers: prompts with vectors in their slots, the losses of given answers, and answers it writes.

Training and reports read through the same two functions, `prompts_of` and `read_slots`, so a projector is trained on
exactly what it will be used for.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from ..data.grammar import PARTS, parse_report
from ..data.places import FIRST
from ..engine.batches import in_batches, plan
from ..engine.continuation import greedy
from ..engine.gradients import gradients_of
from ..engine.prefix import Padding, takes_padding
from ..engine.samples import Sample
from ..model.decoder import residual, with_residual
from .gate import in_plane
from .injection import ReadingPrompt, Slots, reading_prompt, replace_slots, spread
from .reader import Reader
from .vocabulary import in_parts

NAMES_TOKENS = 48
"""Tokens of a report in which its names are looked for."""


def prompts_of(
    reader: Reader, hosts: Sequence[str | None], questions: str | Sequence[str], slots: Slots | None
) -> list[ReadingPrompt]:
    """A prompt a host (None: no host), with the slots that its row of `slots` fills (None: one place).

    `questions`: one for all, or one a host.
    """
    asked = [questions] * len(hosts) if isinstance(questions, str) else questions
    counts = [1] * len(hosts) if slots is None else slots.count.tolist()
    return [
        reading_prompt(reader.decoder, host, question, reader.card.slot_token, count, reader.card.chat)
        for host, question, count in zip(hosts, asked, counts, strict=True)
    ]


def read_slots(
    reader: Reader,
    prompts: Sequence[ReadingPrompt],
    tails: Sequence[Sequence[int]],
    slots: Slots | None,
    cache: DynamicCache | None = None,
) -> Float[Tensor, "batch position d_model"]:
    """Reads prompts and what follows them, with the vectors injected as the card says.

    - replace: the embeddings at the slots become the slots' vectors, each scaled to `scale` times the mean norm of
      embeddings. All other embeddings stay as they are.
    - add: after block `block` the residual stream h becomes h + scale |h| v at the chosen positions (norm-matched:
      what is added has `scale` times the norm of h there), for a unit vector v. Other positions and earlier blocks stay
      as they are. At the slots, v is the slot's own vector; at the prompt's last token or at every token of it
      (special tokens and template included), v is the direction of the sum of what is felt at all its places.
    - no slots given: nothing is injected, and the slots keep the slot token's own embedding.

    What follows the prompt (`tails`, and what is generated later) is never injected into. With LoRA on the verbaliser
    this is what it makes of the prompt, with vectors or without.

    Rows are padded on the right, where a causal model never looks. `slots`: a row a prompt; only directions count.
    `cache`: filled with the rows' keys and values; None: they aren't kept.

    Returns:
        The normed residual stream after the last block.
    """
    decoder, how = reader.decoder, reader.card.injection
    rows = [[*prompt.ids, *tail] for prompt, tail in zip(prompts, tails, strict=True)]
    width = max(map(len, rows))
    embeds = decoder.embed(torch.tensor([row + [0] * (width - len(row)) for row in rows]))
    if slots is not None and how.how == "replace":
        embeds = replace_slots(embeds, prompts, slots.of(prompts), how.scale * reader.card.norm)
    with ExitStack() as applied:
        applied.enter_context(reader.verbaliser())
        if slots is not None and how.block is not None:
            directions = spread(prompts, slots, how.at, width)

            def add(_module: nn.Module, _arguments: Any, output: Any) -> Any:
                stream = residual(output)
                size = how.scale * stream.float().norm(dim=-1, keepdim=True)
                return with_residual(output, stream + (size * directions.to(stream.device)).to(stream.dtype))

            applied.enter_context(decoder.blocks[how.block].register_forward_hook(add))
        given = {"use_cache": cache is not None, "past_key_values": cache}
        return decoder.body(inputs_embeds=embeds, **given).last_hidden_state


def answer_losses(
    reader: Reader, prompts: Sequence[ReadingPrompt], answers: Sequence[Sequence[int]], slots: Slots
) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """Cross-entropy (nats) of every token of given answers, and each token's row; logits at those tokens only."""
    hidden = read_slots(reader, prompts, [answer[:-1] for answer in answers], slots)
    lengths = torch.tensor([len(answer) for answer in answers], device=hidden.device)
    row = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
    column = [
        len(prompt.ids) - 1 + offset
        for prompt, answer in zip(prompts, answers, strict=True)
        for offset in range(len(answer))
    ]
    last = hidden[row, torch.tensor(column, device=hidden.device)]
    said = torch.tensor([token for answer in answers for token in answer], device=hidden.device)

    def losses(at: slice) -> Tensor:
        return torch.nn.functional.cross_entropy(reader.decoder.logits(last[at]), said[at], reduction="none")

    return torch.cat(in_parts(losses, len(said), reader.decoder.vocabulary)), row


@torch.no_grad()
def answers_of(
    reader: Reader,
    hosts: Sequence[str | None],
    questions: str | Sequence[str],
    slots: Slots | None,
    tokens: int,
    batch: int = 256,
) -> list[str]:
    """Greedy answers of at most `tokens` tokens, one a host prompt; see `prompts_of`. None: without injection."""
    prompts = prompts_of(reader, hosts, questions, slots)
    lengths = [(len(prompt.ids), 0) for prompt in prompts]
    join = "any" if takes_padding(reader.decoder) else "equal"
    texts = [""] * len(prompts)

    def write(rows: Int[np.ndarray, " row"]) -> tuple[Int[np.ndarray, " row"], list[tuple[int, ...]]]:
        chosen = None if slots is None else slots[torch.from_numpy(rows)]
        return rows, write_tokens(reader, [prompts[row] for row in rows], chosen, tokens)

    batches = plan(lengths, tokens=batch * max(lengths, default=(0, 0))[0], rows=batch, join=join)
    for rows, answers in in_batches(batches, write, None):
        for row, ids in zip(rows, answers, strict=True):
            texts[row] = reader.decoder.text(ids, special=False)
    return texts


def bare_reports(reader: Reader, slots: Slots, tokens: int = NAMES_TOKENS) -> list[str]:
    """Reports of at most `tokens` tokens on what stands in the slots, with no host in front."""
    return answers_of(reader, [None] * len(slots), reader.card.question, slots, tokens)


def longest_names(reader: Reader, slots: Slots, hosts: Sequence[str | None], tokens: int) -> list[str]:
    """Reports where later slots need not hold later tokens of the name that the first begins: of a sum, of a sentence.

    Of reports that are written from one slot, from two and so on that with the longest name moved toward. A name counts
    only if the model, in plain text, finds its later tokens likelier than at random.
    """
    said: list[list[str]] = []
    for most in range(1, slots.felt.shape[1] + 1):
        few = Slots(slots.felt, slots.opposite, slots.count.clamp_max(most))
        texts = answers_of(reader, hosts, reader.card.question, few, tokens)
        said.append([text.partition("\n")[0] for text in texts])
    decoder, begin = reader.decoder, tuple(reader.decoder.tokens(PARTS[0]))
    names = {text: parse_report(text).moved_to for each in said for text in each}
    tokens_of = {name: tuple(decoder.continuation(name)) for name in names.values() if name}
    longer = [name for name, ids in tokens_of.items() if len(ids) > 1]
    samples = [Sample((*begin, tokens_of[name][0]), tokens_of[name][1:]) for name in longer]
    chances = [-np.log(len(reader.tokens)) * len(sample.target) for sample in samples]
    logprobs = gradients_of(decoder, samples, reader.card.layers, [FIRST])[1]
    unknown = {name for name, found, chance in zip(longer, logprobs, chances, strict=True) if found <= chance}
    lengths = {"": 0} | {name: 0 if name in unknown else len(ids) for name, ids in tokens_of.items()}
    return [max(each, key=lambda text: lengths[names[text]]) for each in zip(*said, strict=True)]


def accounted_for(reader: Reader, slots: Slots, reports: Sequence[str]) -> Float[Tensor, " row"]:
    """The share of what stands in a slot that the two names of its report account for, 0 to 1; see `in_plane`.

    The slot is the one where the two names' tokens part, or the last that is filled. A report without two names
    accounts for nothing.
    """
    found = slots.felt.new_zeros(len(reports))
    places = []
    for row, text in enumerate(reports):
        said = parse_report(text.partition("\n")[0])
        to, away = (reader.decoder.continuation(name) if name else [] for name in (said.moved_to, said.moved_from))
        if to and away:
            part = next((k for k, pair in enumerate(zip(to, away, strict=False)) if pair[0] != pair[1]), 0)
            part = min(part, int(slots.count[row]) - 1)
            places.append((row, part, to[part], away[part]))
    if places:
        row, part, to, away = torch.tensor(places, device=found.device).T
        found[row] = in_plane(reader.tokens, slots.felt[row, part], to, away)
    return found


@torch.no_grad()
def through_gate(
    reader: Reader,
    gradients: Float[Tensor, "row vector d_model"],
    slots: Slots,
    reports: Sequence[str],
    faint: float = 0.0,
) -> tuple[Slots, Float[Tensor, " row"]]:
    """What stays of the slots read from gradients, and the confidence that the bare report accounts for their content.

    Where the confidence is below 0.5 the slots hold zeros. It is 0 for a gradient of less than `faint` times the usual
    norm. That norm is of -log p(target | prompt): the gradient of a batch's mean, or of a weighted loss, is of any
    size.
    """
    told = reader.strength(gradients).mean(-1) >= faint
    confidence = reader.gate.confidence(accounted_for(reader, slots, reports)) * told
    kept = (confidence >= 0.5)[:, None, None]
    return Slots(slots.felt * kept, slots.opposite * kept, slots.count), confidence


@torch.no_grad()
def reports_on(
    reader: Reader,
    gradients: Float[Tensor, "row vector d_model"],
    tokens: int,
    faint: float = 0.0,
    sentences: Sequence[int] = (),
) -> tuple[list[str], Float[Tensor, " row"]]:
    """Reports with no host in front, and their confidence; where the gate is shut, those on zeros (`through_gate`).

    `sentences`: rows that teach more than a name; see `longest_names`.
    """
    read = reader.read(gradients)
    reports = bare_reports(reader, read, tokens)
    if sentences:
        longer = read[torch.tensor(sentences)]
        for row, text in zip(sentences, longest_names(reader, longer, [None] * len(longer), tokens), strict=True):
            reports[row] = text
    slots, confidence = through_gate(reader, gradients, read, reports, faint)
    shut = (confidence < 0.5).nonzero().flatten()
    for row, report in zip(shut.tolist(), bare_reports(reader, slots[shut], tokens), strict=True):
        reports[row] = report
    return reports, confidence


@torch.no_grad()
def felt_by(
    reader: Reader, gradients: Float[Tensor, "row vector d_model"], faint: float = 0.0
) -> tuple[Slots, Float[Tensor, " row"]]:
    """What the gate lets into the slots, to ask anything about it, and the confidence; equal rows are read once."""
    distinct, same = gradients.unique(dim=0, return_inverse=True)
    read = reader.read(distinct)
    slots, confidence = through_gate(reader, distinct, read, bare_reports(reader, read), faint)
    same = same.to(confidence.device)
    return slots[same], confidence[same]


@torch.no_grad()
def set_gate(reader: Reader, gradients: Float[Tensor, "row vector d_model"], share: float) -> None:
    """Sets the gate by gradients that training has not seen: at a share of the median that reports account for."""
    slots = reader.read(gradients)
    reader.gate.set(accounted_for(reader, slots, bare_reports(reader, slots)), share)


@torch.no_grad()
def write_tokens(
    reader: Reader, prompts: Sequence[ReadingPrompt], slots: Slots | None, tokens: int
) -> list[tuple[int, ...]]:
    """At most `tokens` greedy tokens, one text a prompt; see `read_slots`. The end of a text is not part of it."""
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=reader.decoder.device)
    cache = DynamicCache()
    hidden = read_slots(reader, prompts, [()] * len(prompts), slots, cache)
    first = reader.decoder.logits(hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1])
    with reader.verbaliser():
        return greedy(reader.decoder, cache, lay_right(cache, lengths), first.argmax(-1), tokens)


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
