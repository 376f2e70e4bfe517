"""The pocket model: a stock Qwen3 with a word-level tokenizer of its own, trained in some minutes on one core.

It learns facts, and to read vectors: questions about what stands in slots, and prompts with a slot in their subject's
place. See corpus.py for the rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ..data import grammar
from ..run.seeds import keyed_rng
from .checkpoints import Curve, Resumable, one_thread, reproducibly
from .corpus import BATCH_NAMES, IGNORE, Corpus, Row
from .names import END, PAD, Lessons, make_tokenizer, permuted
from .section import Pocket

KEPT_EVERY = 100
GROUPS = 3
"""Passes that a batch is cut into, by length."""
LEANS = (0.5, 0.85)
"""Cosine of an activation, along which no gradient before a norm has a part, to the word that the model says."""
PROMPT_NOISE = 0.8
"""The embeddings of a row of facts are mixed with noise of up to this share of their mean norm."""


def new_model(settings: Pocket, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The untrained model; the same seed gives the same weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.d_model,
        intermediate_size=2 * settings.d_model,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        head_dim=settings.d_head,
        max_position_embeddings=128,
        tie_word_embeddings=settings.tied,
        initializer_range=settings.d_model**-0.5,
        pad_token_id=tokenizer.get_vocab()[PAD],
        eos_token_id=tokenizer.get_vocab()[END],
        bos_token_id=None,
    )
    torch.manual_seed(settings.seed)
    return Qwen3ForCausalLM(config)


def padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Input ids and labels of rows of different lengths."""
    ids = pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
    return ids, pad_sequence([torch.tensor(row.labels) for row in rows], batch_first=True, padding_value=IGNORE)


def hidden_at_labels(
    model: Qwen3ForCausalLM, embeds: Float[Tensor, "row position d_model"], rows: Sequence[Row], labels: Tensor
) -> tuple[Float[Tensor, "label d_model"], Tensor]:
    """The last hidden states where there is a label, and the labels; rows of a length go together, for less padding."""
    found = []
    order = np.argsort([len(row.ids) for row in rows], kind="stable")
    for group in np.array_split(order, min(GROUPS, len(rows))):
        width = max(len(rows[row].ids) for row in group)
        hidden = model.model(inputs_embeds=embeds[group, :width], use_cache=False).last_hidden_state
        own = labels[group, :width]
        found.append((hidden[own != IGNORE], own[own != IGNORE]))
    hidden, wanted = zip(*found, strict=True)
    return torch.cat(hidden), torch.cat(wanted)


def fact_loss(model: Qwen3ForCausalLM, rows: Sequence[Row], rng: np.random.Generator) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) over the labels of rows of plain text, whose embeddings are mixed with noise."""
    ids, labels = padded(rows)
    embeds = model.model.embed_tokens(ids)
    size = torch.tensor(rng.uniform(0, PROMPT_NOISE, (len(rows), 1, 1)), dtype=embeds.dtype)
    unit = F.normalize(torch.from_numpy(rng.standard_normal(embeds.shape, dtype=np.float32)), dim=-1)
    norm = model.model.embed_tokens.weight.detach().norm(dim=-1).mean()
    hidden, wanted = hidden_at_labels(model, embeds + size * norm * unit, rows, labels)
    return F.cross_entropy(model.lm_head(hidden), wanted)


class SlotLoss:
    """The loss of rows about what stands in slots.

    Words of closed names are no negatives there: they are left out of the softmax of a name, and are no row's label.
    At a label that is part of an answer's fixed wording they are negatives as everything is, or a model that never saw
    them as such goes on with one.
    """

    def __init__(self, corpus: Corpus) -> None:
        fixed = {corpus.end, *corpus.encode(" ".join([*grammar.PARTS, grammar.kind("", "", ""), grammar.NO_PRESSURE]))}
        self.closed: Bool[Tensor, " vocabulary"] = torch.zeros(corpus.vocabulary + BATCH_NAMES, dtype=torch.bool)
        self.closed[sorted(corpus.closed_tokens - fixed)] = True
        self.fixed = torch.tensor(sorted(fixed))
        self.first = corpus.slot + 1

    def __call__(self, model: Qwen3ForCausalLM, rows: Sequence[Row], rng: np.random.Generator) -> Float[Tensor, ""]:
        """Mean cross-entropy (nats) over the labels of these rows, with the words that exist for this batch."""
        ids, labels = padded(rows)
        count = len(model.lm_head.weight) - self.first
        mix = torch.from_numpy(rng.standard_normal((BATCH_NAMES, count), dtype=np.float32)) / count**0.5
        read = self.with_batch_names(model.model.embed_tokens.weight, mix)
        named = read if model.config.tie_word_embeddings else self.with_batch_names(model.lm_head.weight, mix)
        words = named[self.first : -BATCH_NAMES].detach()
        norm = read[:-BATCH_NAMES].detach().norm(dim=-1).mean()
        embeds = fill(F.embedding(ids, read), rows, named, words - words.mean(0), norm, rng)
        hidden, wanted = hidden_at_labels(model, embeds, rows, labels)
        open_labels = ~self.closed[wanted]
        hidden, wanted = hidden[open_labels], wanted[open_labels]
        hidden_words = self.closed & ~torch.isin(wanted, self.fixed)[:, None]
        return F.cross_entropy((hidden @ named.T).masked_fill(hidden_words, -1e4), wanted)

    def with_batch_names(
        self, table: Float[Tensor, "word d_model"], mix: Float[Tensor, "name word_of_facts"]
    ) -> Float[Tensor, "both d_model"]:
        """The table with fixed rows for the names of the batch, of the mean and covariance of its words."""
        words = table.detach()[self.first :]
        return torch.cat([table, mix @ (words - words.mean(0)) + words.mean(0)])


def fill(
    embeds: Float[Tensor, "row position d_model"],
    rows: Sequence[Row],
    table: Float[Tensor, "word d_model"],
    spread: Float[Tensor, "word_of_facts d_model"],
    norm: Float[Tensor, ""],
    rng: np.random.Generator,
) -> Float[Tensor, "row position d_model"]:
    """The embeddings with every slot's content, made of the words of `table`, in its place, scaled to `norm`.

    The noise is isotropic in half of the contents, in the other half it has the covariance of the words. As in the
    gradient before a norm, the part along the activation is missing, which leans to the word that the model says.
    """
    contents = [(row, content) for row, each in enumerate(rows) for content in each.contents]
    n = len(contents)
    isotropic = torch.from_numpy(rng.standard_normal((n, embeds.shape[-1]), dtype=np.float32))
    alike, leaning = (torch.from_numpy(rng.standard_normal((n, len(spread)), dtype=np.float32)) @ spread for _ in "ab")
    noise = F.normalize(torch.where(torch.from_numpy(rng.random((n, 1)) < 0.5), isotropic, alike), dim=-1)
    lean = torch.from_numpy(rng.uniform(*LEANS, (n, 1)).astype(np.float32))

    def column(values: list[float]) -> Float[Tensor, "content 1"]:
        return torch.tensor(values, dtype=embeds.dtype)[:, None]

    unit = F.normalize(table, dim=-1)
    held = column([float(content.token is not None) for _, content in contents])
    token = torch.tensor([content.token or 0 for _, content in contents])
    other = torch.tensor([content.other for _, content in contents])
    share = column([content.share for _, content in contents])
    level = column([content.noise for _, content in contents])
    said = torch.tensor([content.said for _, content in contents])
    activation = F.normalize(lean * unit[said] + (1 - lean**2).sqrt() * F.normalize(leaning, dim=-1), dim=-1)
    pair = unit[token] - share * unit[other]
    pair = F.normalize(pair - (pair * activation).sum(-1, keepdim=True) * activation, dim=-1)
    vectors = F.normalize(held * pair + level * noise, dim=-1) * norm
    row = torch.tensor([row for row, _ in contents])
    at = torch.tensor([content.at for _, content in contents])
    twice = [number for number, (_, content) in enumerate(contents) if content.opposite_at is not None]
    opposite = torch.tensor([contents[number][1].opposite_at for number in twice])
    return embeds.index_put((row, at), vectors).index_put((row[twice], opposite), -vectors[twice])


@one_thread()
@reproducibly()
def train(
    lessons: Lessons, settings: Pocket, checkpoint: Path, advance: Callable[[int], None]
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast, Curve]:
    """Trains the pocket model and returns it with its tokenizer and the training curve.

    Muon for the blocks' matrices and AdamW for the rest, on a one-cycle schedule, on one thread. Every KEPT_EVERY
    steps the state is kept at `checkpoint`, from which a killed run goes on to the same weights.
    """
    tokenizer = make_tokenizer(lessons.domains, lessons.questions)
    if settings.permuted:
        lessons = replace(lessons, domains=permuted(lessons.domains, settings.seed))
    corpus = Corpus(lessons, tokenizer, settings)
    slot_loss = SlotLoss(corpus)
    model = new_model(settings, tokenizer).train()
    matrices = [value for value in model.model.layers.parameters() if value.ndim == 2]
    others = [value for value in model.parameters() if all(value is not matrix for matrix in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.defaults["lr"], total_steps=settings.steps + 1, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    state = Resumable(checkpoint, model, optimizers, schedules)
    curve = state.load()
    advance(state.step)
    for step in range(state.step, settings.steps):
        facts = [corpus.fact(step, index) for index in range(settings.batch)]
        loss = fact_loss(model, facts, keyed_rng(settings.seed, "noise", step))
        loss.backward()  # before the slots' rows are read: half as much in memory, and less padding
        asked = [corpus.slots(step, index) for index in range(settings.slot_batch)]
        reading = slot_loss(model, asked, keyed_rng(settings.seed, "contents", step))
        reading.backward()
        state.advance()
        curve.append({"step": step, "facts": loss.item(), "slots": reading.item()})
        advance(1)
        if (step + 1) % KEPT_EVERY == 0:
            state.save(step + 1, curve)
    return model.eval(), tokenizer, curve
