"""Training of a projector: the model stays frozen, only the map from update direction to slots learns.

Report loss: cross-entropy of the report's tokens (nats), given host, question and slots, on the first rows of a batch.
Slot loss, where it is asked for: cross-entropy of naming the token that each slot should hold among all tokens of the
model, by cosine to their embeddings; it needs no forward pass of the model, so it sees many more rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..data.gathering import BLOCK_ROWS, Gathered, Stored, blocks
from ..data.grammar import parse_report
from ..data.places import SUBJECT
from ..model.checkpoints import Curve, Resumable, reproducibly
from ..model.decoder import Decoder
from ..model.opening import ModelCard
from ..run.errors import InputError
from ..run.seeds import keyed_int
from ..run.stage import progress
from .card import Card, plain_card
from .gate import FAINT
from .injection import Slots
from .lessons import Draws, Lessons
from .reader import Reader
from .reports import accounted_for, answer_losses, bare_reports, prompts_of
from .section import Projector
from .vocabulary import embedding_norm, in_parts

SHARPNESS = 30.0
"""The inverse temperature of the slot loss."""


def new_card(decoder: Decoder, settings: Projector, model: str, commit: str, reference: Sequence[float] = ()) -> Card:
    """A card for a projector of this model with these settings; `reference`: see `Card`, empty if it is not known."""
    own = {"lora_on_the_verbaliser": settings.lora, "d_model": decoder.d_model, "norm": embedding_norm(decoder)}
    own |= {"model": model, "commit": commit, "reference": reference}
    return Card.model_validate(settings.model_dump(include=set(Card.model_fields)) | own)


def card_for(decoder: Decoder, model: ModelCard, data: Gathered, settings: Projector) -> Card:
    """The card of the projectors to be trained; their reference norm is the median over training gradients, a layer.

    The norms are those at the first place. The median is that of all, which take 4 bytes a gradient and layer.
    """
    rows = data.rows.select("row", "split").filter(pl.col("split") == "train")["row"].to_numpy()
    first = slice(len(data.layers))
    norms = torch.empty(len(data.layers), len(rows))
    for part, block in zip(norms.split(BLOCK_ROWS, dim=1), blocks(data.gradient, rows), strict=True):
        part[:] = torch.from_numpy(block[:, first]).norm(dim=-1).T
    return new_card(decoder, settings, model.id, model.commit, [layer.median().item() for layer in norms])


def lessons_of(decoder: Decoder, model: ModelCard, data: Gathered, settings: Projector) -> Gathered:
    """The gathered data with the labels that a projector learns from: a teacher's, or the model's own reports.

    With `learns_from: reports` the model reads the raw update directions at the target's tokens, after the last layer
    that is stored. What it reports there is the row's label at any other place, where its names account for enough of
    the gradient: `settings.gate` of the median over all rows.
    """
    if settings.learns_from != "reports":
        return data
    assert isinstance(data.gradient, Stored)
    stores = data.gradient.stores
    layers, places = (stores[0].attributes[name] for name in ("layers", "places"))
    last, targets = layers[-1:], tuple(place for place in places if place != SUBJECT)
    own = Stored(stores, "gradient", last, targets)
    card = card_for(decoder, model, replace(data, gradient=own, layers=last), settings)
    card = plain_card(card, "raw", layers=tuple(last), places=targets)
    reader = Reader(decoder, card, settings.seeds[0])
    known = data.rows.filter(pl.col("split").cast(pl.String).is_in(["train", "validation"]))["row"].to_numpy()
    reports, shares = [], []
    with progress("own reports", len(known)) as advance:
        for rows in np.array_split(known, max(1, len(known) // BLOCK_ROWS)):
            gradients = torch.from_numpy(own[rows])
            slots = reader.read(gradients)
            said = bare_reports(reader, slots)
            shares.append(accounted_for(reader, slots, said) * (reader.strength(gradients).mean(-1) >= FAINT))
            reports += map(parse_report, said)
            advance(len(rows))
    share = torch.cat(shares).cpu()
    labels = pl.DataFrame(
        {
            "row": pl.Series(known, dtype=data.rows["row"].dtype),
            "label_domain": [report.domain for report in reports],
            "label_moved_to": [report.moved_to for report in reports],
            "label_moved_from": [report.moved_from for report in reports],
        }
    ).filter(pl.Series((share >= settings.gate * share.median()).numpy()))
    rows = data.rows.drop(labels.columns[1:]).join(labels, on="row", how="left", maintain_order="left")
    return replace(data, rows=rows)


def slot_loss(reader: Reader, slots: Slots, names: Sequence[tuple[str, str] | None]) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the slots' tokens among all the model's; logits are cosines times SHARPNESS.

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
        return F.cross_entropy(SHARPNESS * reader.tokens.cosines(vectors[at]), token[at], reduction="sum")

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
    held: Draws,
    settings: Projector,
    checkpoint: Path,
    advance: Callable[[int], None],
) -> Curve:
    """Trains `reader.trained` in place and returns the curve (step, train_loss, validation_loss; nats).

    AdamW on a one-cycle schedule. Every `validate_every` steps the report loss on the validation batch `held` is taken;
    the weights that had the lowest are kept, and training stops when `patience` validations bring no lower one. A
    killed run goes on from `checkpoint`. A reader with nothing to train is left as it is; its curve is one point.
    """

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
    reader.trained.train().requires_grad_(True)
    for step in range(state.step, settings.steps):
        if spent([point["validation_loss"] for point in curve], settings.patience):
            break
        torch.manual_seed(keyed_int(reader.seed, "dropout", step))  # the same whether the run was killed before or not
        draws = teaching.draw("train", step, settings.batch, settings.report_batch)
        slots = reader.read(draws.gradients)
        loss = report_loss(reader, draws, slots[: settings.report_batch])
        if settings.slot_loss:
            loss = loss + settings.slot_loss * slot_loss(reader, slots, draws.names)
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
            lowest = min((point["validation_loss"] for point in curve), default=math.inf)
            curve.append({"step": step + 1, "train_loss": loss.item(), "validation_loss": held_loss})
            if held_loss < lowest:
                state.keep_best()
            state.save(step + 1, curve)
    reader.trained.load_state_dict(state.best)
    reader.trained.eval().requires_grad_(False)
    return curve


def spent(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` validations brought no loss as low as the lowest before them."""
    return bool(losses) and min(losses[-patience:]) > min(losses)
