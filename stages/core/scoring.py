"""Reports against what is known: parsed, marked right or wrong, and summed up with intervals and chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from stages.core.statistics import chance, interval
from stages.core.wording import parse_report

REPORTS = {
    "prompt_id": pl.String,  # of the gradient
    "host_prompt_id": pl.String,  # null: no host
    "condition": pl.String,
    "held_out": pl.String,
    "gradient_domain": pl.String,
    "host_domain": pl.String,  # "none" where there is no host
    "prompt": pl.String,
    "host": pl.String,
    "target": pl.String,  # what the report should say is moved to; swapped where the condition flips the sign
    "answer": pl.String,  # what it should say is moved from
    "seed": pl.Int32,
    "confidence": pl.Float32,  # with which the reader named an entity, 0 to 1; null where nothing was read
    "report": pl.String,
    "strength": pl.String,
    "domain": pl.String,
    "moved_to": pl.String,
    "moved_from": pl.String,
    "pressure": pl.Boolean,
    "malformed": pl.Boolean,
    "domain_right": pl.Boolean,
    "target_right": pl.Boolean,
    "answer_right": pl.Boolean,
    "host_intrusion": pl.Boolean,  # the report names the host's domain, and that isn't the gradient's
}
SCORES = {
    "domain_accuracy": "domain_right",
    "target_accuracy": "target_right",
    "answer_accuracy": "answer_right",
    "host_intrusion": "host_intrusion",
}
SAID = {
    "domain_accuracy": ("domain", "gradient_domain"),
    "target_accuracy": ("moved_to", "target"),
    "answer_accuracy": ("moved_from", "answer"),
}


def scored(cases: pl.DataFrame, reports: Sequence[str]) -> pl.DataFrame:
    """The cases with their reports parsed and marked."""
    parsed = [parse_report(report) for report in reports]
    return cases.with_columns(
        pl.Series("report", reports, dtype=pl.String),
        pl.Series("strength", [each.strength for each in parsed], dtype=pl.String),
        pl.Series("domain", [each.domain for each in parsed], dtype=pl.String),
        pl.Series("moved_to", [each.moved_to for each in parsed], dtype=pl.String),
        pl.Series("moved_from", [each.moved_from for each in parsed], dtype=pl.String),
        pl.Series("pressure", [each.pressure and not each.malformed for each in parsed], dtype=pl.Boolean),
        pl.Series("malformed", [each.malformed for each in parsed], dtype=pl.Boolean),
    ).with_columns(
        domain_right=pl.col("domain") == pl.col("gradient_domain"),
        target_right=pl.col("moved_to") == pl.col("target"),
        answer_right=pl.col("moved_from") == pl.col("answer"),
        host_intrusion=(pl.col("domain") == pl.col("host_domain"))
        & (pl.col("host_domain") != pl.col("gradient_domain")),
    ).select(pl.col(name).cast(kind) for name, kind in REPORTS.items())  # fmt: skip


def summary(rows: pl.DataFrame, resamples: int, seed: int, with_chance: bool = False) -> dict[str, Any]:
    """Each score's mean with its interval (bootstrap over target entities), and how many reports said nothing usable.

    `with_chance`: also the mean that the same reports would have on gradients dealt at random.
    """
    found: dict[str, Any] = {
        "reports": len(rows),
        "malformed": float(np.mean(rows["malformed"].to_numpy())),
        "no_pressure": float(np.mean((~rows["pressure"] & ~rows["malformed"]).to_numpy())),
    }
    for name, column in SCORES.items():
        right = rows[column].to_numpy()
        found[name] = float(right.mean())
        found[f"{name}_low"], found[f"{name}_high"] = interval(right, rows["target"].to_list(), resamples, seed)
        if with_chance and name in SAID:
            said, gold = SAID[name]
            found[f"{name}_chance"] = chance(rows[said].to_list(), rows[gold].to_list())
    return found
