"""Contrasts: the difference of mean activations between prompts that have a concept and prompts that lack it.

A file data/contrasts/<name>.yaml names a column of the prompts table, each of whose values is a concept against all
others, or gives texts of both sides. A text with {prompt}, {answer} or {target} stands for as many as there are
corrections to fill it with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ..engine.gradients import activation_gradients
from ..engine.samples import Sample
from ..model.decoder import Decoder
from ..run.errors import InputError
from ..run.files import read_validated
from ..run.params import Name, Section
from .directions import contrast

FOLDER = Path("data/contrasts")
FILLED = 128
"""Corrections that a text with fields is filled with, at most."""
Texts = Annotated[list[str], Field(min_length=1)]
Named = tuple[dict[str, str], Float[Tensor, " d_model"]]
"""What a direction stands for, by column, and the direction: toward what has the concept, at length 1."""


class Sides(Section):
    """Texts that have a concept, and texts that lack it, best alike in all else."""

    has: Texts
    lacks: Texts


class Contrasts(Section):
    """A file: `each` is the column whose values are concepts; `concepts` are texts of both sides, by concept."""

    description: str
    each: Literal["domain", "relation", "answer"] | None = None
    concepts: dict[Name, Sides] = Field(default_factory=dict)


def read_contrasts(name: str) -> Contrasts:
    """Reads data/contrasts/<name>.yaml.

    Raises:
        InputError: it is missing, breaks the schema, has a side without texts, or no contrast.
    """
    path = FOLDER / f"{name}.yaml"
    found = read_validated(path, Contrasts.model_validate)
    if found.each is None and not found.concepts:
        raise InputError(f"{path}: found neither each nor concepts, wanted one of them: it names no concept")
    return found


def between(one: Float[Tensor, "left d_model"], other: Float[Tensor, "right d_model"]) -> Float[Tensor, " d_model"]:
    """The unit vector from the mean of `other` to that of `one`; errors as of `directions.contrast`."""
    direction = contrast(one, other)[0]
    return direction * torch.sign(direction @ (one.mean(0) - other.mean(0)))


def by_column(column: str, prompts: pl.DataFrame, activations: Float[Tensor, "prompt d_model"]) -> list[Named]:
    """A direction for each value of a column of the prompts that the activations are of."""
    found = []
    for value in prompts[column].drop_nulls().unique(maintain_order=True):
        own = torch.tensor((prompts[column] == value).fill_null(False).to_list())
        found.append(({column: str(value)}, between(activations[own], activations[~own])))
    return found


def by_texts(decoder: Decoder, file: Contrasts, corrections: pl.DataFrame, layer: int) -> list[Named]:
    """A direction for each concept of a file, from activations at the last token of its texts."""
    found = []
    for concept, sides in file.concepts.items():
        one, other = (read(decoder, filled(texts, corrections), layer) for texts in (sides.has, sides.lacks))
        found.append(({"concept": concept}, between(one, other)))
    return found


def filled(texts: Sequence[str], corrections: pl.DataFrame) -> list[str]:
    """The texts, each with a field filled with every correction."""
    rows = list(corrections.select("prompt", "answer", "target").head(FILLED).iter_rows(named=True))
    return [made for text in texts for made in ([text.format(**row) for row in rows] if "{" in text else [text])]


def read(decoder: Decoder, texts: Sequence[str], layer: int) -> Float[Tensor, "text d_model"]:
    """The residual stream after a layer at the last token of each text."""
    samples = [Sample(tuple(tokens), (tokens[-1],)) for tokens in map(decoder.tokens, texts)]  # any target does
    found = torch.zeros(len(texts), decoder.d_model)
    for batch in activation_gradients(decoder, samples, [layer]):
        found[batch.rows] = torch.from_numpy(batch.activation[:, 0])
    return found
