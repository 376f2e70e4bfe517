"""The kinds of dictionary: one function each, from what a layer's activations and gradients are; and their names.

A feature is named after what the prompts that activate it have in common, scored on other prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..model.decoder import Decoder
from ..model.opening import ModelCard
from ..reader.vocabulary import final_gain
from ..run.errors import InputError
from ..run.seeds import keyed_fraction
from . import contrasts
from .dictionary import Dictionary, plain, random_directions
from .directions import principal

PRINCIPAL = 32
"""Principal directions, each of which is a feature both ways."""
COLUMNS = ("domain", "relation", "answer")
HELD_OUT = 1 / 3
"""Of the prompts, those on which names are scored."""
FEWEST = 2
"""Prompts that a name has to have in common."""
FEATURES = 4096
"""Features that are ranked at once."""

Names = list[dict[str, str]]
Scores = list[dict[str, float]]


@dataclass(frozen=True)
class Material:
    """What dictionaries of one layer and place are made from: all of it of the train split.

    Attributes:
        prompts: the distinct prompts; activations: there, of each of them.
        streams: activations at all places, each once.
        corrections: rows of the prompts table; gradients: there, of each of them, none of them zero.
        contrasts: the files of contrasts that are wanted.
        autoencoders: the sparse autoencoders of the streams.
    """

    decoder: Decoder
    card: ModelCard
    layer: int
    prompts: pl.DataFrame
    activations: Float[Tensor, "prompt d_model"]
    streams: Float[Tensor, "stream d_model"]
    corrections: pl.DataFrame
    gradients: Float[Tensor, "correction d_model"]
    contrasts: Sequence[contrasts.Contrasts]
    autoencoders: Sequence[Dictionary]

    def plain(self, kind: str, directions: Float[Tensor, "feature d_model"]) -> Dictionary:
        """The dictionary of some directions, active above the mean activation."""
        return plain(kind, self.card, self.layer, directions, self.activations.mean(0))

    def named(self, dictionary: Dictionary) -> Dictionary:
        """The dictionary with names from what activates its features, or its own, and their scores."""
        names, scores = named(self.prompts, dictionary.activations(self.activations), dictionary.names)
        return replace(dictionary, names=names, scores=scores)


def sparse_autoencoders(given: Material) -> list[Dictionary]:
    """Sparse autoencoders of the activations at all places, one a seed."""
    return list(given.autoencoders)


def differences(given: Material) -> list[Dictionary]:
    """Differences of mean activations, of all files of contrasts."""
    found = []
    for file in given.contrasts:
        found += contrasts.by_column(file.each, given.prompts, given.activations) if file.each else []
        found += contrasts.by_texts(given.decoder, file, given.corrections, given.layer)
    names, directions = zip(*found, strict=True)
    return [replace(given.plain("differences of means", torch.stack(directions)), names=names)]


def principal_updates(given: Material) -> list[Dictionary]:
    """The principal directions of the updates, at length 1, of the train split; both ways along each."""
    found = principal(torch.nn.functional.normalize(given.gradients, dim=-1), PRINCIPAL)
    return [given.plain("principal directions", torch.cat([found, -found]))]


def unembedding(given: Material) -> list[Dictionary]:
    """The direction of each token's logit: the head's row times the final norm's gain."""
    rows = given.decoder.head.get_parameter("weight").detach().float()
    tokenizer = given.decoder.tokenizer
    names = [{"token": str(tokenizer.decode([token])).strip()} if tokenizer else {} for token in range(len(rows))]
    return [replace(given.plain("unembedding", (rows * final_gain(given.decoder)).cpu()), names=names)]


def random(given: Material, count: int, seed: int) -> Dictionary:
    """As many directions that stand for nothing: the floor of any dictionary of this size."""
    return given.plain("random", random_directions(seed, given.layer, count, given.card.d_model))


KINDS: dict[str, Callable[[Material], list[Dictionary]]] = {
    "sparse autoencoder": sparse_autoencoders,
    "differences of means": differences,
    "principal directions": principal_updates,
    "unembedding": unembedding,
}
"""Of each a dictionary, or one for each seed."""


def named(
    prompts: pl.DataFrame, activations: Float[Tensor, "prompt feature"], given: Sequence[dict[str, str]] = ()
) -> tuple[Names, Scores]:
    """For each feature and each of COLUMNS the value whose prompts activate it most, and the scores of these names.

    Most: on average over its prompts, of two thirds of all; the score of a name is the area under the curve on the
    others, 0.5 by chance. A name that is `given` stays, and is scored too.

    Raises:
        InputError: there are no prompts, or no value with FEWEST of them.
    """
    rest = torch.tensor(
        [keyed_fraction(0, "names", prompt) < HELD_OUT for prompt in prompts["prompt"]], dtype=torch.bool
    )
    count = activations.shape[1]
    names: Names = [dict(each) for each in given] or [{} for _ in range(count)]
    scores: Scores = [{} for _ in range(count)]
    for column in COLUMNS:
        values = sorted(set(prompts[column].drop_nulls()))
        number = {value: at for at, value in enumerate(values)}
        index = torch.tensor([number.get(one, -1) for one in prompts[column]], dtype=torch.int64)
        marks = index[:, None] == torch.arange(len(values))
        enough = marks[~rest].sum(0) >= FEWEST
        if not enough.any():
            raise InputError(f"names: {column}: found no value with {FEWEST} prompts or more, wanted examples of some")
        for start in range(0, count, FEATURES):
            part = activations[:, start : start + FEATURES]
            means = part[~rest].T @ marks[~rest].float() / marks[~rest].sum(0)
            best, held = means.masked_fill(~enough, -torch.inf).argmax(1), areas(part[rest], marks[rest])
            for at, value in enumerate(best.tolist(), start):
                name = names[at].setdefault(column, values[value])
                score = held[at - start, number[name]] if name in number else torch.tensor(torch.nan)
                scores[at] |= {column: float(score)} if score.isfinite() else {}
    return names, scores


def areas(
    activations: Float[Tensor, "prompt feature"], marks: Bool[Tensor, "prompt value"]
) -> Float[Tensor, "feature value"]:
    """The area under the curve between the prompts that have a value and the others; NaN where all have it or none."""
    rows = activations.T.contiguous()
    ordered = rows.sort(-1).values
    ranks = (torch.searchsorted(ordered, rows) + torch.searchsorted(ordered, rows, right=True) + 1) / 2
    ones = marks.sum(0).float()
    return (ranks.float() @ marks.float() - ones * (ones + 1) / 2) / (ones * (len(marks) - ones))
