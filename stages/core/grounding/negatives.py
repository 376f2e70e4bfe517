"""Negatives: vectors that correct nothing, told from real gradients by what their reports' words explain of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from ..data.gathering import Gathered, Means
from ..evaluate.statistics import estimates
from ..reader.vocabulary import Tokens
from .features import Named, explained

Scores = Float[np.ndarray, " _"]
NEGATIVES = ("activation", "activation_negated", "steering_vector")
"""Conditions that are no gradients, hang on no random numbers, and are asked with the gate open too."""


def told_apart(
    tokens: Tokens, reports: pl.DataFrame, real: Mapping[str, Scores], data: Gathered, train: pl.DataFrame
) -> dict[str, Any]:
    """How well negatives are told from real gradients: by the gate, and by what the report's words explain.

    Area under the curve, the share of pairs in which the real gradient scores higher, for each of NEGATIVES; intervals
    over the negatives' target entities. The report is the one that is written with the gate open.

    Args:
        reports: of all conditions, by the first projector.
        real: of real gradients, the gate's confidence (`gate`) and the share in the span of their words (`explained`).
        data: gradients and activations at the last prompt token, of one layer.
        train: rows whose mean activations, by answer, make the steering vectors.
    """
    identity, found = ["prompt_id", "host_prompt_id"], {}
    for name in NEGATIVES:
        shut = reports.filter(condition=name).select(*identity, "confidence")
        rows = reports.filter(condition=f"{name}_ungated").drop("confidence")
        for table, keys in ((shut, identity), (data.rows.select("prompt_id", "row"), ["prompt_id"])):
            rows = rows.join(table, on=keys, maintain_order="left")
        if name == "steering_vector":
            vectors = Means.of(data.activation, train, {*rows["target"], *rows["answer"]}).moves(rows)
        else:
            vectors = data.activation[rows["row"].to_numpy()]
        said = [Named(*names) for names in rows.select("moved_to", "moved_from").iter_rows()]
        scores = {"explained": explained(tokens, vectors[:, 0], said), "gate": rows["confidence"].to_numpy()}
        higher = {one: share_above(real[one], own) for one, own in scores.items()}
        found[name] = estimates(higher, rows["target"].to_list())
    return found


def share_above(real: Scores, negatives: Scores) -> Scores:
    """For each negative the share of real scores above it; equal ones count half. Their mean is the area."""
    ordered = np.sort(real)
    below = np.searchsorted(ordered, negatives, "left"), np.searchsorted(ordered, negatives, "right")
    return 1 - (below[0] + below[1]) / (2 * len(ordered))
