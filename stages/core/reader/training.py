"""Training of a projector: the model stays frozen, only the map from update direction to slots learns.

Two losses on the same draw. Report: cross-entropy of the report's tokens (nats), given host, slots and question, on the
first rows of a batch. Slot: cross-entropy of naming what each slot should hold among all tokens of the model, by cosine
to their embeddings; it needs no forward pass of the model, so it sees many more rows.

Every row draws a host prompt of another domain than the gradient's (or none), a strength (the gradient is scaled),
perhaps a sign flip (report with the two entities swapped), and context noise: the activation of another training row,
in a random amount, is mixed into the gradient, so that the projector reads past what comes of the prompt. In a share of
the rows without report loss a sham stands in place of the gradient, and both entity slots are taught to name nothing
("no"); the gate is set by what that leaves.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..data import grammar
from ..data.gathering import Vectors, blocks
from ..data.shuffling import Shuffled
from ..model.checkpoints import Curve, Resumable, reproducibly
from ..run.errors import InputError
from ..run.seeds import keyed_int, keyed_rng
from .projectors import STRONGEST
from .reader import Reader
from .reports import report_losses
from .section import Projector
from .shams import TRAINED, draw_sham
from .vocabulary import in_parts


@dataclass(frozen=True)
class Draws:
    """One batch: gradients [batch, layer, d_model], the report of each, its host, and what the slots should hold."""

    gradients: Float[Tensor, "batch layer d_model"]
    reports: list[str]
    hosts: list[str | None]
    slots: list[tuple[str, str, str]]


class Curriculum:
    """Draws batches: the batch of (split, step) is always the same. An epoch has each lesson once."""

    def __init__(
        self,
        gradients: Vectors,
        activations: Vectors,
        lessons: pl.DataFrame,
        hosts: Mapping[str, Sequence[str] | pl.Series],
        reference: Sequence[float],
        settings: Projector,
        seed: int,
    ) -> None:
        """What is taught.

        Args:
            gradients, activations: by row; read as they are drawn.
            lessons: columns row, and what is to be reported of its gradient: domain, moved_to, moved_from. `flip`: -g
                may be taught too, with the two entities swapped.
            hosts: prompts by domain.
            reference: the norm that "strong" and "weak" are told apart at, a layer.
            settings, seed: of the training.
        """
        self.gradients, self.lessons, self.hosts, self.settings, self.seed = gradients, lessons, hosts, settings, seed
        self.reference = torch.tensor(reference)
        self.rows = lessons["row"].to_numpy()
        self.shuffled = Shuffled(self.rows, (gradients, activations), seed)

    def blocks(self) -> Iterator[Float[Tensor, "_ layer d_model"]]:
        """All gradients, some at a time."""
        return map(torch.from_numpy, blocks(self.gradients, self.rows))

    def draw(self, split: str, step: int, size: int, reported: int) -> Draws:
        """A batch of `size` rows, the first `reported` of which are never shams."""
        rng, noise = keyed_rng(self.seed, split, step), keyed_rng(self.seed, split, step, "context")
        parts, chosen = [], []
        for rows, beside in self.shuffled.batch(split, step, size):
            parts.append(self.in_context(noise, rows, beside))
            chosen.append(rows)
        gradients, picked = torch.cat(parts), self.lessons[np.concatenate(chosen)]
        factors = np.exp(rng.uniform(-STRONGEST, STRONGEST, size))
        gradients *= (torch.tensor(factors, dtype=torch.float32)[:, None] * self.reference / gradients.norm(dim=-1))[
            ..., None
        ]
        flips, shams, bare = rng.random((3, size)) < np.array([[self.settings.flips], [self.settings.shams], [0.1]])
        reports, hosts, slots = [], [], []
        told = picked.select("domain", "moved_to", "moved_from", "flip").iter_rows()
        for row, (domain, to, away, flip) in enumerate(told):
            hosts.append(None if bare[row] else self.host(rng, domain))
            if shams[row] and row >= reported:
                gradients[row] = torch.from_numpy(draw_sham(TRAINED, rng, gradients[row].numpy()))
                reports.append(grammar.NO_PRESSURE)
                slots.append(("", "no", "no"))
                continue
            if flips[row] and flip:
                gradients[row] *= -1
                to, away = away, to
            strength = "strong" if factors[row] > 1 else "weak"
            reports.append(grammar.report(domain, to, away, strength))
            slots.append((strength, to, away))
        return Draws(gradients, reports, hosts, slots)

    def in_context(
        self, rng: np.random.Generator, rows: Int[np.ndarray, " n"], beside: Int[np.ndarray, " m"]
    ) -> Float[Tensor, "n layer d_model"]:
        """The rows' gradients, each with an activation's direction added at N(0, context_noise) times its norm.

        The activation is that of a random one of the rows `beside`, which are in memory with these.
        """
        others = beside[rng.integers(len(beside), size=len(rows))]
        gradients, contexts = (torch.from_numpy(self.shuffled.vectors(*of)) for of in ((0, rows), (1, others)))
        amounts = torch.from_numpy(rng.normal(0, self.settings.context_noise, len(rows))).to(gradients.dtype)
        return gradients + amounts[:, None, None] * gradients.norm(dim=-1, keepdim=True) * F.normalize(contexts, dim=-1)

    def host(self, rng: np.random.Generator, domain: str) -> str | None:
        """A prompt of another domain."""
        others = [name for name in self.hosts if name != domain]
        if not others:
            return None
        pool = self.hosts[others[rng.integers(len(others))]]
        return pool[int(rng.integers(len(pool)))]


class Spelling:
    """What a slot should hold to name a word: its tokens, the first weighing twice as much as each of the others."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.known: dict[str, list[int]] = {}

    def loss(self, vectors: Float[Tensor, "batch k d_model"], slots: Sequence[tuple[str, ...]]) -> Float[Tensor, ""]:
        """Cross-entropy (nats) of naming the words' tokens among all the model's, over slots that hold a word.

        `vectors`: those of the reader's `project`.
        """
        row, slot, token, share = [], [], [], []
        for r, words in enumerate(slots):
            for s, word in enumerate(words):
                if word and word not in self.known:
                    self.known[word] = self.reader.decoder.continuation(word)
                ids = self.known[word] if word else []
                for position, identity in enumerate(ids):
                    row.append(r)
                    slot.append(s)
                    token.append(identity)
                    share.append((1.0 if position == 0 else 0.5) / (0.5 + 0.5 * len(ids)))
        of = torch.tensor([row, slot, token], device=vectors.device)
        weights = torch.tensor(share, device=vectors.device)

        def part(at: slice) -> Tensor:
            own = (of[0] >= at.start) & (of[0] < at.stop)
            logs = self.reader.naming(vectors[at]).log_softmax(-1)
            return -(logs[of[0, own] - at.start, of[1, own], of[2, own]] * weights[own]).sum()

        losses = in_parts(part, len(vectors), self.reader.numbers)
        return torch.stack(losses).sum() / weights.sum()


def report_loss(
    reader: Reader, draws: Draws, vectors: Float[Tensor, "batch k d_model"], rows: int
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the first `rows` reports' tokens and the end of each."""
    end = min(reader.decoder.eos_ids())
    tails = [[*reader.decoder.continuation(report), end] for report in draws.reports[:rows]]
    return report_losses(reader, draws.hosts[:rows], tails, vectors[:rows])[0].mean()


@reproducibly()
def train(
    reader: Reader,
    teaching: Curriculum,
    validation: Curriculum,
    settings: Projector,
    checkpoint: Path,
    advance: Callable[[int], None],
) -> Curve:
    """Trains `reader.trained` in place and returns the curve (step, train_loss, validation_loss; nats).

    AdamW on a one-cycle schedule. Every `validate_every` steps the report loss on a fixed validation batch is taken;
    the weights that had the lowest are kept, and training stops when `patience` validations bring no lower one. A
    killed run goes on from `checkpoint`.
    """
    spelling = Spelling(reader)
    groups: list[dict[str, Any]] = [{"params": list(reader.projector.parameters())}]
    if reader.adapter is not None and settings.lora is not None:
        groups.append({"params": list(reader.adapter.weights.parameters()), "lr": settings.lora.learning_rate})
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=settings.steps + 1, pct_start=0.1
    )
    state = Resumable(checkpoint, reader.trained, [optimizer], [schedule])
    curve = state.load()
    held = validation.draw("validation", 0, settings.validation_batch, settings.validation_batch)
    validation.shuffled.forget()
    advance(state.step)
    reader.trained.train()
    for step in range(state.step, settings.steps):
        if spent([point["validation_loss"] for point in curve], settings.patience):
            break
        torch.manual_seed(keyed_int(reader.seed, "dropout", step))  # the same whether the run was killed before or not
        draws = teaching.draw("train", step, settings.batch, settings.report_batch)
        vectors = reader.project(draws.gradients)
        loss = report_loss(reader, draws, reader.sharpened(vectors[: settings.report_batch]), settings.report_batch)
        if settings.slot_loss:
            loss = loss + settings.slot_loss * spelling.loss(vectors, draws.slots)
        loss.backward()
        state.advance()
        advance(1)
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            reader.trained.eval()
            with torch.no_grad():
                held_loss = report_loss(reader, held, reader.vectors(held.gradients), settings.validation_batch).item()
            reader.trained.train()
            if not math.isfinite(held_loss):
                raise InputError(
                    f"projector, seed {reader.seed}: validation loss at step {step + 1}: found {held_loss}, wanted a "
                    f"finite number: training has diverged; lower params.yaml: projector.learning_rate (now "
                    f"{settings.learning_rate:g}) and run the stage again"
                )
            earlier = [point["validation_loss"] for point in curve]
            curve.append({"step": step + 1, "train_loss": loss.item(), "validation_loss": held_loss})
            if held_loss < min(earlier, default=float("inf")):
                state.keep_best()
            state.save(step + 1, curve)
    reader.trained.load_state_dict(state.best)
    reader.trained.eval()
    return curve


def spent(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` validations brought no loss as low as the lowest before them."""
    return bool(losses) and min(losses[-patience:]) > min(losses)
