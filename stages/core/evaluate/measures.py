"""The numbers of metrics.json, from the reports alone."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from .cases import NO_HOST
from .estimate import Estimate
from .scoring import SCORES, Words, summary
from .statistics import GAP, calibration_error, calibration_interval, estimates, exact_high, too_few

SEEN = pl.col("held_out") == "none"
ALARM = pl.col("pressure") | pl.col("malformed")
"""Whether a report on a sham is a false alarm: all but "no pressure" is."""


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


def of_groups(reports: pl.DataFrame, resamples: int, seed: int, words: Words | None = None) -> dict[str, Any]:
    """What `of_group` says of each group that has reports."""
    found = groups(reports).items()
    return {name: of_group(rows, resamples, seed, words) for name, rows in found if len(rows)}


def of_unnamed(
    reports: pl.DataFrame, named: Collection[str], resamples: int, seed: int, words: Words | None = None
) -> dict[str, Any]:
    """The group `held_out_entity`, if there is such a report: held-out targets that no training label names at all.

    `named`: the words that training labels name as moved to or as moved from. No label says that a held-out target is
    moved to, but a projector that has learnt to read it as moved from may know it by the sign. The strict test is of
    targets in neither place.
    """
    rows = groups(reports)["held_out_target"].filter(~pl.col("target").is_in(list(named)))
    return {"held_out_entity": of_group(rows, resamples, seed, words)} if len(rows) else {}


def of_group(rows: pl.DataFrame, resamples: int, seed: int, words: Words | None) -> dict[str, Any]:
    """The summary of a group's reports, how many distinct gradients they are of, and how calibrated confidence is.

    `calibration_error`: expected calibration error of the confidence as the probability that the named target is right,
    with its interval (bootstrap over target entities) where the group has one.
    """
    once = once_each(rows)
    columns = once["confidence"].to_numpy(), once["right"].to_numpy()
    clusters = once["target"].to_list()
    reason = too_few(clusters)
    low, high = (None, None) if reason else calibration_interval(*columns, clusters, resamples, seed)
    count = len(set(clusters))
    error = Estimate(calibration_error(*columns), low, high, rows=len(once), entities=count, reason=reason or None)
    found = summary(rows, resamples, seed, words)
    return found | {"gradients": rows["prompt_id"].n_unique(), "calibration_error": error}


def once_each(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a vector that was read and seed: target, confidence, and the share of its reports that is right.

    A vector has one confidence, in front of however many hosts it is reported.
    """
    read = rows.group_by("condition", "prompt_id", "seed", maintain_order=True)
    means = pl.col("confidence").cast(pl.Float64).mean(), pl.col("target_right").mean().alias("right")
    return read.agg(pl.col("target").first(), *means)


def of_controls(
    reports: pl.DataFrame, controls: Sequence[str], resamples: int, seed: int, words: Words | None = None
) -> dict[str, Any]:
    """A summary of each control, with chance, and its paired difference to the real gradient on the same cases.

    The `difference` of a score is real minus control, on the rows with the same gradient and host; the real reports are
    averaged over projector seeds first, since a control without a projector has one report for all. The interval is a
    bootstrap over target entities of the pairs. One that includes zero is no effect.
    """
    on = ["prompt_id", "host_prompt_id"]
    means = (pl.col(column).mean().alias(f"{column}_real") for column in SCORES.values())
    real = groups(reports)["decoupling"].group_by(on).agg(*means)
    found = {}
    for control in controls:
        rows = reports.filter(pl.col("condition") == control)
        pairs = rows.join(real, on=on, how="inner", maintain_order="left").with_columns(
            pl.col(f"{column}_real") - pl.col(column).cast(pl.Float64) for column in SCORES.values()
        )
        gaps = {name: pairs[f"{column}_real"].to_numpy() for name, column in SCORES.items()}
        scores = summary(rows, resamples, seed, words, with_chance=True)
        differences = estimates(gaps, pairs["target"].to_list(), resamples, seed, GAP)
        found[control] = scores | {
            name: replace(scores[name], difference=difference) for name, difference in differences.items()
        }
    return found


def of_detection(reports: pl.DataFrame, shams: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """How often a pressure is reported where there is one, and where there is none; and how calibrated confidence is.

    `rate`: share of real gradients (foreign hosts) that a pressure is reported of. `shams`: how many distinct ones, of
    kinds that training has not seen, were tried. `false_alarms`: of the `sham_reports` reports on them, those that
    aren't "no pressure", malformed ones too. `shams_reported`: distinct shams with a false alarm of any projector;
    `false_alarms_high`: exact one-sided upper 95 % bound of their share. `calibration_error`: as of a group, over
    gradients and shams together: it says how far the one number can be trusted on such a mixture, most of which is
    shams; the groups have that of gradients alone.
    """
    real = groups(reports)["decoupling"]
    tried = reports.filter(pl.col("condition").is_in(list(shams)))
    distinct = tried.group_by("condition", "prompt_id").agg(ALARM.any().alias("alarm"))
    reported = int(distinct["alarm"].sum())
    both = once_each(pl.concat([real, tried]))
    return {
        **estimates({"rate": real["pressure"].to_numpy()}, real["target"].to_list(), resamples, seed),
        "shams": len(distinct),
        "shams_reported": reported,
        "sham_reports": len(tried),
        "false_alarms": tried.filter(ALARM).height,
        "false_alarms_high": exact_high(reported, len(distinct)),
        "calibration_error": Estimate(calibration_error(both["confidence"].to_numpy(), both["right"].to_numpy())),
    }


def of_strength(reports: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Share of gradients scaled to a third or to three times the reference norm whose strength is named rightly."""
    rows = scaled(reports)
    return estimates({"accuracy": rows["right"].to_numpy()}, rows["target"].to_list(), resamples, seed)


def scaled(reports: pl.DataFrame) -> pl.DataFrame:
    """The reports on scaled gradients; `right`: the strength is named rightly."""
    wanted = {"weaker": "weak", "stronger": "strong"}
    rows = reports.filter(pl.col("condition").is_in(list(wanted)))
    return rows.with_columns(
        right=pl.col("strength") == pl.col("condition").replace_strict(wanted, return_dtype=pl.String)
    )


def of_circularity(reports: pl.DataFrame, labels: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Do reports say what the gradient does, or what the teacher would have said of it?

    Over reports of real gradients whose own label (`labels`: prompt_id, label_moved_to) names another target than the
    known correction: the share that says the known one, and the share that says the label's. `gradients`: how many
    distinct ones these are; without any nothing is said.
    """
    real = reports.filter(pl.col("condition") == "real").join(labels, on="prompt_id", maintain_order="left")
    rows = real.filter((pl.col("label_moved_to") != pl.col("target")) & (pl.col("label_moved_to") != ""))
    said = {"says_correction": "target", "says_label": "label_moved_to"}
    right = {name: (rows["moved_to"] == rows[column]).to_numpy() for name, column in said.items()}
    found = estimates(right, rows["target"].to_list(), resamples, seed)
    return {"gradients": rows["prompt_id"].n_unique()} | found


def of_seeds(reports: pl.DataFrame, shams: Sequence[str]) -> dict[str, dict[str, float]]:
    """The headline numbers of each projector seed; one without a report to count is left out.

    `<group>_<score>` for the decoupling group, held-out targets and sign-flipped gradients;
    `sign_flipped_both_words`: target and answer are swapped in the same report. The others as in `of_detection` and
    `of_strength`.
    """
    found: dict[str, dict[str, float]] = {}
    for (seed,), rows in reports.group_by("seed", maintain_order=True):
        parts = {name: groups(rows)[name] for name in ("decoupling", "held_out_target")}
        parts["sign_flipped"] = rows.filter(pl.col("condition") == "sign_flipped")
        marks = {f"{group}_{name}": part[column] for group, part in parts.items() for name, column in SCORES.items()}
        flipped = parts["sign_flipped"]
        marks |= {
            "sign_flipped_both_words": flipped["target_right"] & flipped["answer_right"],
            "detection_rate": parts["decoupling"]["pressure"],
            "strength_accuracy": scaled(rows)["right"],
        }
        tried = rows.filter(pl.col("condition").is_in(list(shams)))
        counts = {"sham_reports": len(tried), "false_alarms": tried.filter(ALARM).height}
        means = {name: float(marked.to_numpy().mean()) for name, marked in marks.items() if len(marked)}
        found[str(seed)] = means | counts
    return found


def grid(reports: pl.DataFrame) -> pl.DataFrame:
    """One row a gradient domain and host domain: how many reports, and the mean of each score."""
    means = [pl.col(column).mean().alias(name) for name, column in SCORES.items()]
    real = reports.filter(SEEN & (pl.col("condition") == "real"))
    cells = real.group_by("gradient_domain", "host_domain", maintain_order=True)
    return cells.agg(pl.len().alias("reports"), *means)


def bars(metrics: dict[str, Any]) -> pl.DataFrame:
    """One row a condition and score: value, interval (null: too few entities), chance (null for real gradients)."""
    conditions = {"real": metrics["decoupling"], **metrics["controls"]}
    rows = [
        {
            "condition": condition,
            "metric": name,
            "value": scores[name].value,
            "low": scores[name].low,
            "high": scores[name].high,
            "chance": scores[name].chance,
        }
        for condition, scores in conditions.items()
        for name in SCORES
    ]
    return pl.DataFrame(rows, infer_schema_length=None)
