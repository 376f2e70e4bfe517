"""Negatives: vectors that correct nothing, told from real gradients by what their reports' words explain of them."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from ..data.gathering import Gathered, Means, blocks
from ..evaluate.cases import COUNTERFACTUAL, SEEN
from ..evaluate.conditions import CONDITIONS, Pool
from ..evaluate.statistics import estimates
from ..reader.shams import Normal
from ..reader.vocabulary import Tokens
from .features import Named, explained

Scores = Float[np.ndarray, " _"]
LEFT_OUT = ("fine_tuned",)
"""Conditions with an open gate that are no negatives: a real step moves the activation along what was taught."""


def told_apart(
    tokens: Tokens, reports: pl.DataFrame, real: dict[str, Scores], data: Gathered, seed: int
) -> dict[str, Any]:
    """How well negatives are told from real gradients: by the gate, and by what the report's words explain.

    Area under the curve, the share of pairs in which the real gradient scores higher, for each condition that is asked
    with the gate open too; intervals over the negatives' target entities. The report is the one that is written with
    the gate open.

    Args:
        reports: of all conditions, by the first projector.
        real: of real gradients, the gate's confidence (`gate`) and the share in the span of their words (`explained`).
        data: gradients and activations at the reader's layers and places.
        seed: of the evaluation, which drew what is random.
    """
    train = data.rows.filter((pl.col("split") == "train") & SEEN & COUNTERFACTUAL)
    identity, found = ["prompt_id", "host_prompt_id"], {}
    shared: tuple[Normal, Means] | None = None
    for condition in CONDITIONS:
        if not condition.opened or condition.read is None or condition.name in LEFT_OUT:
            continue
        shut = reports.filter(condition=condition.name).select(*identity, "confidence")
        rows = reports.filter(condition=f"{condition.name}_ungated").drop("confidence")
        rows = rows.join(shut, on=identity, maintain_order="left").join(
            data.rows.select("prompt_id", "row"), on="prompt_id", maintain_order="left"
        )
        if shared is None:
            wanted = {*rows["target"], *rows["answer"]}
            shared = (
                Normal(blocks(data.gradient, train["row"].to_numpy())),
                Means.of(data.activation, train, wanted),
            )
        at, cases = rows["row"].to_numpy(), rows.select("prompt_id", "target", "answer", domain="gradient_domain")
        pool = Pool(cases, data.gradient[at], data.activation[at], seed, *shared)
        updates = -condition.read(pool)[:, len(data.layers) - 1]
        said = [Named(*names) for names in rows.select("moved_to", "moved_from").iter_rows()]
        scores = {"explained": explained(tokens, updates, said), "gate": rows["confidence"].to_numpy()}
        higher = {name: share_above(real[name], own) for name, own in scores.items()}
        found[condition.name] = estimates(higher, rows["target"].to_list())
    return found


def share_above(real: Scores, negatives: Scores) -> Scores:
    """For each negative the share of real scores above it; equal ones count half. Their mean is the area."""
    ordered = np.sort(real)
    below = np.searchsorted(ordered, negatives, "left"), np.searchsorted(ordered, negatives, "right")
    return 1 - (below[0] + below[1]) / (2 * len(ordered))
