"""The numbers of metrics.json, from the reports alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from stages.core.cases import NO_HOST
from stages.core.scoring import SCORES, summary
from stages.core.statistics import interval, paired_interval

SEEN = pl.col("held_out") == "none"
BINS = 10
"""Bins of equal width for the expected calibration error."""


def groups(reports: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The reports of real gradients by what is asked of them."""
    real = reports.filter(pl.col("condition") == "real")
    own = pl.col("host_domain") == pl.col("gradient_domain")
    none = pl.col("host_domain") == NO_HOST
    return {
        "decoupling": real.filter(SEEN & ~own & ~none),
        "same_domain": real.filter(SEEN & own),
        "no_host": real.filter(SEEN & none),
        "held_out_target": real.filter(pl.col("held_out") == "target"),
        "held_out_subject": real.filter(pl.col("held_out") == "subject"),
        "held_out_template": real.filter(pl.col("held_out") == "template"),
        "held_out_relation": real.filter(pl.col("held_out") == "relation"),
        "corrections": real.filter(pl.col("held_out") == "correction"),
    }


def of_groups(reports: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """A summary of each group that has at least two target entities."""
    found = groups(reports).items()
    return {name: summary(rows, resamples, seed) for name, rows in found if rows["target"].n_unique() > 1}


def of_controls(reports: pl.DataFrame, controls: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """A summary of each control, with chance, and its paired difference to the real gradient on the same cases.

    `<score>_difference`: real minus control, on the rows with the same gradient, host and projector seed; its interval
    is a bootstrap over target entities of the pairs. One that includes zero is no effect.
    """
    on = ["prompt_id", "host_prompt_id", "seed"]
    real = groups(reports)["decoupling"].select(*on, *SCORES.values())
    found = {}
    for control in controls:
        rows = reports.filter(pl.col("condition") == control)
        scores = summary(rows, resamples, seed, with_chance=True)
        pairs = rows.join(real, on=on, how="inner", suffix="_real", maintain_order="left")
        if not pairs.is_empty():
            for name, column in SCORES.items():
                gap = pairs[f"{column}_real"].cast(pl.Float64) - pairs[column].cast(pl.Float64)
                low, high = paired_interval(gap.to_numpy(), pairs["target"].to_list(), resamples, seed)
                scores |= {
                    f"{name}_difference": gap.mean(),
                    f"{name}_difference_low": low,
                    f"{name}_difference_high": high,
                }
        found[control] = scores
    return found


def of_detection(reports: pl.DataFrame, shams: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """How often a pressure is reported where there is one, and where there is none; and how calibrated confidence is.

    `rate`: share of real gradients (foreign hosts) that a pressure is reported of. `false_alarms`: shams, of kinds that
    training has not seen, that one is reported of; `shams`: how many distinct ones were tried. `calibration_error`:
    expected calibration error of the confidence as the probability that the named target is right, over both.
    """
    real = groups(reports)["decoupling"]
    tried = reports.filter(pl.col("condition").is_in(list(shams)))
    felt = real["pressure"].to_numpy()
    low, high = interval(felt, real["target"].to_list(), resamples, seed)
    both = pl.concat([real, tried])
    return {
        "rate": float(felt.mean()),
        "rate_low": low,
        "rate_high": high,
        "shams": tried.select("condition", "prompt_id").n_unique(),
        "sham_reports": len(tried),
        "false_alarms": int(tried["pressure"].sum()),
        "calibration_error": calibration_error(both["confidence"].to_numpy(), both["target_right"].to_numpy()),
    }


def calibration_error(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> float:
    """Expected calibration error: |mean confidence - share right| over bins of equal width, weighted by their rows."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def of_strength(reports: pl.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    """Share of gradients scaled to a third or to three times the reference norm whose strength is named rightly."""
    rows = reports.filter(pl.col("condition").is_in(["weaker", "stronger"]))
    right = (rows["strength"] == rows["condition"].replace_strict({"weaker": "weak", "stronger": "strong"})).to_numpy()
    low, high = interval(right, rows["target"].to_list(), resamples, seed)
    return {"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high}


def of_circularity(reports: pl.DataFrame, labels: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Do reports say what the gradient does, or what the teacher would have said of it?

    Over reports of real gradients whose own label (`labels`: prompt_id, label_moved_to) names another target than the
    known correction: the share that says the known one, and the share that says the label's. `gradients`: how many
    distinct ones these are; with fewer than two targets among them nothing is said.
    """
    real = reports.filter(pl.col("condition") == "real").join(labels, on="prompt_id", maintain_order="left")
    rows = real.filter((pl.col("label_moved_to") != pl.col("target")) & (pl.col("label_moved_to") != ""))
    found: dict[str, Any] = {"gradients": rows["prompt_id"].n_unique()}
    clusters = rows["target"].to_list()
    if len(set(clusters)) > 1:
        for name, column in (("says_correction", "target"), ("says_label", "label_moved_to")):
            right = (rows["moved_to"] == rows[column]).to_numpy()
            low, high = interval(right, clusters, resamples, seed)
            found |= {name: float(right.mean()), f"{name}_low": low, f"{name}_high": high}
    return found


def of_seeds(reports: pl.DataFrame) -> dict[str, dict[str, float]]:
    """The headline scores of each projector seed."""
    found: dict[str, dict[str, float]] = {}
    for (seed,), rows in reports.group_by("seed", maintain_order=True):
        scores = {}
        for group in ("decoupling", "held_out_target"):
            part = groups(rows)[group]
            scores |= {f"{group}_{name}": float(part[column].mean() or 0) for name, column in SCORES.items()}  # type: ignore[arg-type]
        found[str(seed)] = scores
    return found


def grid(reports: pl.DataFrame) -> pl.DataFrame:
    """One row a gradient domain and host domain: how many reports, and the mean of each score."""
    means = [pl.col(column).mean().alias(name) for name, column in SCORES.items()]
    real = reports.filter(SEEN & (pl.col("condition") == "real"))
    cells = real.group_by("gradient_domain", "host_domain", maintain_order=True)
    return cells.agg(pl.len().alias("reports"), *means)


def bars(metrics: dict[str, Any]) -> pl.DataFrame:
    """One row a condition and score: value, interval, chance (null for the real gradients)."""
    conditions = {"real": metrics["decoupling"], **metrics["controls"]}
    rows = [
        {
            "condition": condition,
            "metric": name,
            "value": scores[name],
            "low": scores[f"{name}_low"],
            "high": scores[f"{name}_high"],
            "chance": scores.get(f"{name}_chance"),
        }
        for condition, scores in conditions.items()
        for name in SCORES
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def said_by(cases: pl.DataFrame, said: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """The summary of what a baseline says (columns domain, moved_to, moved_from) of each case."""
    marked = cases.select("target")
    for column, (name, known) in {
        "domain_right": ("domain", "domain"),
        "target_right": ("moved_to", "target"),
        "answer_right": ("moved_from", "answer"),
    }.items():
        marked = marked.with_columns((said[name] == cases[known]).alias(column))
    marked = marked.with_columns(host_intrusion=pl.lit(False), malformed=pl.lit(False), pressure=pl.lit(True))
    return summary(marked, resamples, seed)
