"""Training of a projector: the model stays frozen, only the map from update direction to slots learns.

Report loss: cross-entropy of the report's tokens (nats), given host, question and slots, on the first rows of a batch.
Slot loss, where it is asked for: cross-entropy of naming the token that each slot should hold among all tokens of the
model, by cosine to their embeddings; it needs no forward pass of the model, so it sees many more rows.

Every row draws a host prompt of another domain than the gradient's (or none), perhaps a sign flip (report with the two
entities swapped), and context noise: the activation of another training row, in a random amount, is mixed into the
gradient, so that the projector reads past what comes of the prompt. In a share of the rows a sham stands in place of
the gradient, and the report is that of no pressure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..data import grammar
from ..data.gathering import BLOCK_ROWS, Shuffled, Vectors, blocks
from ..model.checkpoints import Curve, Resumable, reproducibly
from ..model.decoder import Decoder
from ..run.errors import InputError
from ..run.seeds import keyed_int, keyed_rng
from .card import Card
from .injection import Slots
from .reader import Reader
from .reports import answer_losses, prompts_of
from .section import Projector
from .shams import TRAINED, draw_sham
from .vocabulary import embedding_norm, in_parts


def new_card(decoder: Decoder, settings: Projector, model: str, commit: str, reference: Sequence[float] = ()) -> Card:
    """A card for a projector of this model with these settings; `reference`: see `Card`, empty if it is not known."""
    own = {"lora_on_the_verbaliser": settings.lora, "d_model": decoder.d_model, "norm": embedding_norm(decoder)}
    own |= {"model": model, "commit": commit, "reference": reference}
    return Card.model_validate(settings.model_dump(include=set(Card.model_fields)) | own)


@dataclass(frozen=True)
class Draws:
    """One batch: gradients, the report of each, its host, and the names moved to and from (None: a sham).

    `whole`: the reports are not only their beginnings.
    """

    gradients: Float[Tensor, "batch vector d_model"]
    reports: list[str]
    hosts: list[str | None]
    names: list[tuple[str, str] | None]
    whole: bool = True


@runtime_checkable
class Lessons(Protocol):
    """What a projector is trained on, in batches."""

    def draw(self, split: str, step: int, size: int, reported: int) -> Draws:
        """The batch of (split, step), always the same."""
        ...

    def blocks(self) -> Iterator[Float[Tensor, "_ layer d_model"]]:
        """Gradients, some at a time."""
        ...

    def forget(self) -> None:
        """Gives memory back."""


class Curriculum:
    """Draws batches: the batch of (split, step) is always the same. An epoch has each lesson once."""

    def __init__(
        self,
        gradients: Vectors,
        activations: Vectors,
        lessons: pl.DataFrame,
        hosts: Mapping[str, Sequence[str] | pl.Series],
        settings: Projector,
        seed: int,
    ) -> None:
        """`lessons`: columns row, and what is to be reported of its gradient: domain, moved_to, moved_from.

        Where `settings.differences` are asked for, prompt too; where `settings.reports` is teacher, told: the report.

        `gradients`, `activations`: by row; read as they are drawn. `hosts`: prompts by domain.
        """
        self.gradients, self.lessons, self.hosts, self.settings, self.seed = gradients, lessons, hosts, settings, seed
        self.rows = lessons["row"].to_numpy()
        self.shuffled = Shuffled(self.rows, (gradients, activations), seed)
        self.alike = None if not settings.differences else runs(lessons["prompt"])

    def blocks(self) -> Iterator[Float[Tensor, "_ layer d_model"]]:
        """All gradients, some at a time."""
        return map(torch.from_numpy, blocks(self.gradients, self.rows))

    def forget(self) -> None:
        """Gives the memory of rows back."""
        self.shuffled.forget()

    def draw(self, split: str, step: int, size: int, reported: int) -> Draws:
        """A batch of `size` rows, the first `reported` of which may be shams."""
        rng, noise = keyed_rng(self.seed, split, step), keyed_rng(self.seed, split, step, "context")
        pairs = keyed_rng(self.seed, split, step, "differences")
        parts, chosen, against = [], [], []
        for rows, beside in self.shuffled.batch(split, step, size):
            others = self.others(pairs, rows)
            parts.append(self.in_context(noise, rows, others, beside))
            chosen.append(rows)
            against.append(others)
        chosen, against = np.concatenate(chosen), np.concatenate(against)
        gradients, picked, minus = torch.cat(parts), self.lessons[chosen], self.lessons[against]
        away = pl.select(pl.when(pl.Series(chosen == against)).then(picked["moved_from"]).otherwise(minus["moved_to"]))
        picked = picked.with_columns(moved_from=away.to_series())
        flips, shams, bare = rng.random((3, size)) < np.array([[self.settings.flips], [self.settings.shams], [0.1]])
        reports, hosts, names = [], [], []
        free = ["told"] * (self.settings.reports == "teacher")
        told = picked.select("domain", "moved_to", "moved_from", *free).iter_rows()
        for row, (domain, to, away, *text) in enumerate(told):
            hosts.append(None if bare[row] else self.host(rng, domain))
            if shams[row] and row < reported:
                gradients[row] = torch.from_numpy(draw_sham(TRAINED, rng, gradients[row].numpy()))
                reports.append(grammar.NO_PRESSURE)
                names.append(None)
                continue
            if flips[row]:
                gradients[row] *= -1
                to, away = away, to
            reports.append(text[0] if text else grammar.report(domain, to, away))
            names.append((to, away))
        return Draws(gradients, reports, hosts, names)

    def others(self, rng: np.random.Generator, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """For a share `differences` of the rows another one of the same prompt and block; the row itself for the rest.

        It is the row itself too where the other is toward the same name.
        """
        if self.alike is None:
            return rows
        first, end = self.alike
        drawn = rng.integers(first[rows], end[rows]).astype(rows.dtype)
        told = self.lessons["moved_to"]
        other = (told[drawn] != told[rows]).to_numpy() & (rng.random(len(rows)) < self.settings.differences)
        return np.where(other, drawn, rows)

    def in_context(
        self,
        rng: np.random.Generator,
        rows: Int[np.ndarray, " n"],
        minus: Int[np.ndarray, " n"],
        beside: Int[np.ndarray, " m"],
    ) -> Float[Tensor, "n layer d_model"]:
        """The rows' gradients, less those of other rows `minus`, and an activation's direction in a random amount.

        It is added at N(0, context_noise) times the gradient's norm. The activation is that of a random one of the rows
        `beside`, which are in memory with these.
        """
        others = beside[rng.integers(len(beside), size=len(rows))]
        gradients, contexts = (torch.from_numpy(self.shuffled.vectors(*of)) for of in ((0, rows), (1, others)))
        taken = minus != rows
        gradients[torch.from_numpy(taken)] -= torch.from_numpy(self.shuffled.vectors(0, minus[taken]))
        amounts = torch.from_numpy(rng.normal(0, self.settings.context_noise, len(rows))).to(gradients.dtype)
        return gradients + amounts[:, None, None] * gradients.norm(dim=-1, keepdim=True) * F.normalize(contexts, dim=-1)

    def host(self, rng: np.random.Generator, domain: str) -> str | None:
        """A prompt of another domain."""
        others = [name for name in self.hosts if name != domain]
        if not others:
            return None
        pool = self.hosts[others[rng.integers(len(others))]]
        return pool[int(rng.integers(len(pool)))]


def runs(prompts: pl.Series) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Of each row where the rows with its prompt begin that stand next to it in its block, and where they end."""
    blocks = pl.Series(np.arange(len(prompts)) // BLOCK_ROWS)
    run = pl.select(pl.struct(prompts, blocks).rle_id()).to_series().to_numpy()
    starts = np.searchsorted(run, np.arange(run[-1] + 2))
    return starts[run], starts[run + 1]


def slot_loss(
    reader: Reader, slots: Slots, names: Sequence[tuple[str, str] | None], sharpness: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the slots' tokens among all the model's; logits are cosines times `sharpness`.

    What is felt should hold the tokens of the name moved to, one a place; the negative's first slot the first token of
    the name moved from.
    """
    places = []
    for row, pair in enumerate(names):
        if pair is not None:
            to, away = (reader.decoder.continuation(name) for name in pair)
            places += [(0, row, place, token) for place, token in enumerate(to[: int(slots.count[row])])]
            places.append((1, row, 0, away[0]))
    side, row, place, token = torch.tensor(places, device=slots.felt.device).T
    vectors = torch.stack([slots.felt, slots.opposite])[side, row, place]

    def part(at: slice) -> Tensor:
        return F.cross_entropy(sharpness * reader.tokens.cosines(vectors[at]), token[at], reduction="sum")

    return torch.stack(in_parts(part, len(vectors), len(reader.tokens))).sum() / len(vectors)


def report_loss(reader: Reader, draws: Draws, slots: Slots) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the tokens of as many reports as there are rows of slots; whole ones have an end."""
    end = [min(reader.decoder.eos_ids())] if draws.whole else []
    answers = [[*reader.decoder.continuation(text), *end] for text in draws.reports[: len(slots)]]
    prompts = prompts_of(reader, draws.hosts[: len(slots)], reader.card.question, slots)
    return answer_losses(reader, prompts, answers, slots)[0].mean()


@reproducibly()
def train(
    reader: Reader,
    teaching: Lessons,
    validation: Lessons,
    settings: Projector,
    checkpoint: Path,
    advance: Callable[[int], None],
) -> Curve:
    """Trains `reader.trained` in place and returns the curve (step, train_loss, validation_loss; nats).

    AdamW on a one-cycle schedule. Every `validate_every` steps the report loss on a fixed validation batch is taken;
    the weights that had the lowest are kept, and training stops when `patience` validations bring no lower one. A
    killed run goes on from `checkpoint`. A reader with nothing to train is left as it is; its curve is one point.
    """
    held = validation.draw("validation", 0, settings.validation_batch, settings.validation_batch)
    validation.forget()

    def validate() -> float:
        reader.trained.eval()
        with torch.no_grad():
            return report_loss(reader, held, reader.read(held.gradients)).item()

    if not list(reader.trained.parameters()):
        return [{"step": 0, "train_loss": math.nan, "validation_loss": validate()}]
    groups: list[dict[str, Any]] = [{"params": list(reader.projector.parameters())}]
    if reader.adapter is not None and settings.lora is not None:
        groups.append({"params": list(reader.adapter.weights.parameters()), "lr": settings.lora.learning_rate})
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=settings.steps + 1, pct_start=0.1
    )
    state = Resumable(checkpoint, reader.trained, [optimizer], [schedule])
    curve = state.load()
    advance(state.step)
    reader.trained.train()
    for step in range(state.step, settings.steps):
        if spent([point["validation_loss"] for point in curve], settings.patience):
            break
        torch.manual_seed(keyed_int(reader.seed, "dropout", step))  # the same whether the run was killed before or not
        draws = teaching.draw("train", step, settings.batch, settings.report_batch)
        slots = reader.read(draws.gradients)
        loss = report_loss(reader, draws, slots[: settings.report_batch])
        if settings.slot_loss:
            loss = loss + settings.slot_loss * slot_loss(reader, slots, draws.names, settings.sharpness)
        loss.backward()
        state.advance()
        advance(1)
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            held_loss = validate()
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
