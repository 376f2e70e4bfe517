"""Scores: what of the gradient texts explain, which reports can be swapped, and negatives told apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ..data.gathering import Gathered, Means
from ..evaluate.estimate import Estimate
from ..evaluate.statistics import GAP, estimates
from ..reader.gate import in_plane
from ..reader.vocabulary import Tokens, in_parts
from .features import Directions, cosines, shares

GROUPS = {
    "none": "seen",
    "target": "held_out_target",
    "kind": "held_out_kind",
    "template": "held_out_template",
}
"""What the values of `held_out` that are scored are called."""
NEGATIVES = ("activation", "activation_negated", "steering_vector")
"""Conditions that are no gradients and hang on no random numbers."""
Scores = Float[np.ndarray, " _"]


def text_scores(found: Directions, wanted: Directions, cases: pl.DataFrame) -> dict[str, Estimate]:
    """The explained share and the cosine, in each of GROUPS, with intervals over target entities."""
    scores: dict[str, Estimate] = {}
    for held_out, group in GROUPS.items():
        at = wanted.any(1) & (cases["held_out"] == held_out).to_numpy()
        clusters = cases["target"].filter(pl.Series(at)).to_list()
        scores |= estimates({f"explained_{group}": shares(found, wanted)[at]}, clusters, None)
        scores |= estimates({f"cosine_{group}": cosines(found, wanted)[at]}, clusters, GAP)
    return {name: one if one.high is None else replace(one, high=min(one.high, 1.0)) for name, one in scores.items()}


def swapped(cases: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """The cases whose prompt has a correction toward another target, with that one's `row` as `row_other`.

    `report_swapped`: the report with that target in place of the name that it says is moved toward.
    """
    other = prompts.filter(kind="counterfactual").select("prompt", "answer", other="target", row_other="row")
    pairs = cases.filter(pl.col("moved_to") != "").join(other, on=["prompt", "answer"], maintain_order="left")
    pairs = pairs.filter(pl.col("target") != pl.col("other")).unique("prompt_id", keep="first", maintain_order=True)
    names = pairs.select("report", "moved_to", "other").iter_rows()
    return pairs.with_columns(
        report_swapped=pl.Series([text.replace(to, new, 1) for text, to, new in names], dtype=pl.String)
    )


def told_apart(
    tokens: Tokens, reports: pl.DataFrame, cases: pl.DataFrame, data: Gathered, train: pl.DataFrame
) -> dict[str, Any]:
    """How well negatives are told from real gradients: by the gate, and by the nearest words, with no model.

    Area under the curve, the share of pairs in which the real gradient scores higher, for each of NEGATIVES; intervals
    over the negatives' target entities. gate: the share of a vector that its own report's names account for. nearest:
    the share in the plane of the two tokens of the largest and the smallest cosine to it.

    Args:
        reports: of all conditions, by the first projector.
        cases: real gradients; columns row and confidence.
        data: gradients and activations at the last prompt token, of one layer.
        train: rows whose mean activations, by answer, make the steering vectors.
    """
    real = {"gate": cases["confidence"].to_numpy(), "nearest": nearest(tokens, -data.gradient[cases["row"].to_numpy()])}
    found = {}
    for name in NEGATIVES:
        rows = reports.filter(condition=name).join(
            data.rows.select("prompt_id", "row"), on="prompt_id", maintain_order="left"
        )
        if name == "steering_vector":
            vectors = Means.of(data.activation, train, {*rows["target"], *rows["answer"]}).moves(rows)
        else:
            vectors = data.activation[rows["row"].to_numpy()]
        scores = {"gate": rows["confidence"].to_numpy(), "nearest": nearest(tokens, vectors)}
        higher = {one: share_above(real[one], own) for one, own in scores.items()}
        found[name] = estimates(higher, rows["target"].to_list())
    return found


def nearest(tokens: Tokens, vectors: Float[np.ndarray, "row 1 d_model"]) -> Scores:
    """The share of each vector in the plane of its nearest and its farthest token, by cosine."""
    felt = torch.from_numpy(vectors[:, 0]).to(tokens.decoder.device)

    def part(at: slice) -> Tensor:
        near = tokens.cosines(felt[at])
        return in_plane(tokens, felt[at], near.argmax(-1), near.argmin(-1))

    return torch.cat(in_parts(part, len(felt), len(tokens))).cpu().numpy()


def share_above(real: Scores, negatives: Scores) -> Scores:
    """For each negative the share of real scores above it; equal ones count half. Their mean is the area."""
    ordered = np.sort(real)
    below = np.searchsorted(ordered, negatives, "left"), np.searchsorted(ordered, negatives, "right")
    return 1 - (below[0] + below[1]) / (2 * len(ordered))
