"""Names for features: what the prompts have in common that activate them, and how well that holds for other prompts."""

from collections.abc import Sequence

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..run.errors import InputError
from ..run.seeds import keyed_fraction

COLUMNS = ("domain", "relation", "answer")
HELD_OUT = 1 / 3
"""Of the prompts, those on which names are scored."""
FEWEST = 2
"""Prompts that a name has to have in common."""
FEATURES = 4096
"""Features that are ranked at once."""

Names = list[dict[str, str]]
Scores = list[dict[str, float]]


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
