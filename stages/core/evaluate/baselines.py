"""Baselines that read gradients without reports: linear probe (ceiling), untrained lens (floor), nearest gradient."""

from collections.abc import Iterable

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int, Integer
from torch.nn import functional as F

from ..data.gathering import BLOCK_ROWS, Shuffled, Vectors, blocks
from ..model.decoder import Decoder
from ..reader.injection import Slots
from ..reader.projectors import directions
from ..reader.reader import Reader
from ..reader.vocabulary import in_parts

PROBE_STEPS = 300
PROBE_BATCH = 512


def probe(
    gradients: Vectors,
    train: Integer[np.ndarray, " n"],
    labels: pl.DataFrame,
    test: Float[np.ndarray, "m layer d_model"],
    seed: int,
) -> pl.DataFrame:
    """What multinomial logistic regressions, one a column of labels, say of the test directions (same columns).

    Fitted on the directions of the gradients' rows `train`, whose labels these are, by AdamW: PROBE_STEPS steps of
    PROBE_BATCH rows, weight decay 1e-4. The regressions share the rows drawn and nothing else. A label that training
    has not seen can't be said.
    """
    names = {column: labels[column].unique().sort() for column in labels.columns}
    sizes = [len(classes) for classes in names.values()]
    shuffled = Shuffled(train, gradients, seed)
    y = torch.tensor(
        np.stack([np.searchsorted(names[column].to_numpy(), labels[column].to_numpy()) for column in names], 1)
    )
    head = torch.nn.Linear(test[0].size, sum(sizes))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PROBE_STEPS)
    for step in range(PROBE_STEPS):
        parts = [(shuffled.vectors(rows), rows) for rows in shuffled.batch("probe", step, PROBE_BATCH)]
        drawn, picked = (np.concatenate(each) for each in zip(*parts, strict=True))
        optimizer.zero_grad()
        logits = head(directions(torch.tensor(drawn))).split(sizes, 1)
        losses = [F.cross_entropy(part, of) for part, of in zip(logits, y[picked].T, strict=True)]
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        best = [part.argmax(1).numpy() for part in head(directions(torch.tensor(test))).split(sizes, 1)]
    return pl.DataFrame({column: classes[at] for (column, classes), at in zip(names.items(), best, strict=True)})


def first_tokens(decoder: Decoder, names: Iterable[str]) -> Int[torch.Tensor, " name"]:
    """The first token of each name."""
    return torch.tensor([decoder.continuation(name)[0] for name in names], device=decoder.device)


@torch.no_grad()
def unembedded(
    decoder: Decoder, gradients: Float[np.ndarray, "sample d_model"]
) -> Float[torch.Tensor, "sample vocabulary"]:
    """The update direction, times the final norm's weight, times the head."""
    direction = F.normalize(-torch.tensor(gradients), dim=-1).to(decoder.device, decoder.dtype)
    weight = getattr(decoder.norm, "weight", None)
    return decoder.head(direction * weight if weight is not None else direction).float()


def extremes(
    decoder: Decoder, gradients: Float[np.ndarray, "sample d_model"], among: slice | Int[torch.Tensor, " token"]
) -> list[Int[torch.Tensor, " sample"]]:
    """Which of these tokens the unembedded update direction raises most, and lowers most, by number among them."""

    def part(at: slice) -> tuple[torch.Tensor, torch.Tensor]:
        shift = unembedded(decoder, gradients[at])[:, among]
        return shift.argmax(1), shift.argmin(1)

    return [torch.cat(each) for each in zip(*in_parts(part, len(gradients), decoder.vocabulary), strict=True)]


def lens(decoder: Decoder, gradients: Float[np.ndarray, "sample d_model"], lexicon: dict[str, str]) -> pl.DataFrame:
    """The entities whose first tokens rise and fall most in the unembedded update direction; no training.

    `lexicon`: domain by entity. Columns of the result: domain, moved_to (rises most), moved_from (falls most).
    """
    ups, downs = (found.tolist() for found in extremes(decoder, gradients, first_tokens(decoder, lexicon)))
    return words_at(lexicon, ups, downs)


@torch.no_grad()
def nearest_entities(reader: Reader, slots: Slots, lexicon: dict[str, str]) -> pl.DataFrame:
    """The entities nearest to what stands in the slots, by cosine to their tokens' embeddings; no model takes part.

    Moved to: the largest mean cosine, of the tokens to what is felt in their slots, among entities of as many tokens as
    the row has slots (of no more, where a place fills several slots). Moved from: the first token nearest to the
    negative in the first slot. `lexicon`: domain by entity. Columns of the result: domain (that of the entity moved
    to), moved_to, moved_from.
    """
    scores, lengths = likeness(reader, slots, lexicon)
    count = slots.count[:, None]
    fits = lengths == count if reader.card.slots == 1 else lengths <= count
    ups = scores.masked_fill(~fits, -torch.inf).argmax(1).tolist()
    first = reader.tokens[first_tokens(reader.decoder, lexicon)]
    downs = (F.normalize(slots.opposite[:, 0], dim=-1) @ first.T).argmax(1).tolist()
    return words_at(lexicon, ups, downs)


def likeness(
    reader: Reader, slots: Slots, lexicon: Iterable[str]
) -> tuple[Float[torch.Tensor, "row entity"], Int[torch.Tensor, " entity"]]:
    """The mean cosine of each entity's tokens to what is felt in their slots, and how many tokens count."""
    most = slots.felt.shape[1]
    tokens = [reader.decoder.continuation(entity)[:most] for entity in lexicon]
    lengths = torch.tensor([len(ids) for ids in tokens], device=slots.count.device)
    scores = torch.zeros((len(slots), len(tokens)), device=slots.felt.device)
    for place in range(most):
        ids = torch.tensor([ids[place] if place < len(ids) else 0 for ids in tokens], device=slots.felt.device)
        cosine = F.normalize(slots.felt[:, place], dim=-1) @ reader.tokens[ids].T
        scores += torch.where(place < lengths, cosine, 0.0)
    return scores / lengths, lengths


def words_at(lexicon: dict[str, str], ups: list[int], downs: list[int]) -> pl.DataFrame:
    """The entities at these numbers: domain (that of the entity moved to), moved_to, moved_from."""
    named = pl.DataFrame({"domain": lexicon.values(), "moved_to": lexicon.keys()})
    return named[ups].with_columns(moved_from=named["moved_to"][downs])


def nearest(
    gradients: Vectors, train: Integer[np.ndarray, " n"], test: Float[np.ndarray, "m layer d_model"]
) -> Int[np.ndarray, " m"]:
    """Which of the rows `train` has the update direction of largest cosine to each test row's: no learning."""
    asked, found = directions(torch.tensor(test)), torch.zeros(len(test), dtype=torch.long)
    best = torch.full((len(test),), -torch.inf)
    for number, block in enumerate(blocks(gradients, train)):
        nearer = (asked @ directions(torch.tensor(block)).T).max(1)
        found = torch.where(nearer.values > best, nearer.indices + number * BLOCK_ROWS, found)
        best = torch.maximum(best, nearer.values)
    return found.numpy()
