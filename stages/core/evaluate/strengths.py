"""Whether reports name a gradient's strength: at norms that are set, and at those that gradients have by nature."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from .measures import groups
from .statistics import estimates


def of_factors(reports: pl.DataFrame, factors: Mapping[str, float], resamples: int, seed: int) -> dict[str, Any]:
    """`accuracy` of each condition: the share of its reports that call the gradient what it is.

    `factors`: by condition, the norm that its gradients are scaled to, in units of the reference norm: "strong" is
    right above 1, "weak" below. A report that names no strength is wrong.
    """
    found = {}
    for name, factor in factors.items():
        rows = reports.filter(pl.col("condition") == name)
        right = (rows["strength"] == word(factor > 1)).to_numpy()
        found[name] = estimates({"accuracy": right}, rows["target"].to_list(), resamples, seed)
    return found


def of_nature(
    reports: pl.DataFrame, strengths: pl.DataFrame, furthest: float, resamples: int, seed: int
) -> dict[str, Any]:
    """The same for the reports of the decoupling group, on gradients of the norms that they have.

    `share_further`: the share of its gradients that are stronger or weaker than training makes any. `median_apart`: how
    far the median gradient is from the reference norm, where "weak" passes into "strong", as |ln| of its norm in units
    of it: near zero the two words are hard to tell apart.

    Args:
        reports: all.
        strengths: columns prompt_id and natural: ln of the gradient's norm in units of the reference norm.
        furthest: the largest |ln| in training.
        resamples, seed: of the intervals.
    """
    rows = groups(reports)["decoupling"].join(strengths, on="prompt_id", how="inner", maintain_order="left")
    apart = rows.unique("prompt_id")["natural"].abs()
    right = rows["strength"] == pl.Series([word(ln > 0) for ln in rows["natural"]], dtype=pl.String)
    return {
        "share_further": (apart > furthest).mean(),
        "median_apart": apart.median(),
        **estimates({"accuracy": right.to_numpy()}, rows["target"].to_list(), resamples, seed),
    }


def word(strong: bool) -> str:
    """What a report calls it."""
    return "strong" if strong else "weak"
