"""Metrics: every number of metrics.json, and the tables for plots, from the marked reports."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl
import torch

from ..data.gathering import Gathered, taught
from ..labels.agreement import agreement_with_corrections
from ..reader.projectors import STRONGEST, features
from ..reader.reader import Reader
from .cases import COUNTERFACTUAL, SEEN, Questions
from .conditions import ALL
from .estimate import Estimate
from .options import option_scores
from .references import reference_scores
from .scores import SCORES, Words, real_groups, summary
from .section import Evaluation
from .statistics import calibration, calibration_error, estimates, exact_high, with_differences
from .steering import steering_success

ALARM = pl.col("pressure") | pl.col("malformed")
"""Whether a report on a sham is a false alarm: all but "no pressure" is."""
POOLED = ("weaker", "stronger")
"""The conditions whose reports the headline of strength is over: a third and three times the reference norm."""


def metrics_of(
    reports: pl.DataFrame, data: Gathered, questions: Questions, readers: Sequence[Reader], labels: pl.DataFrame
) -> dict[str, Any]:
    """The groups of metrics.json: nested dicts of estimates and plain numbers.

    Args:
        reports: all reports, marked (REPORTS).
        data: the prompts, labels and gradients of all domains.
        questions: what was asked.
        readers: one a projector seed.
        labels: the teacher's labels (LABELS) of all domains.
    """
    how, rows, reader = questions.settings, questions.rows, readers[0]
    words = Words.of(data.rows)
    trained = ~pl.col("domain").is_in(reader.card.held_out_domains)
    lessons = taught(data.rows.filter(trained), "train")
    train = rows.filter((pl.col("split") == "train") & SEEN)
    shams = [one.name for one in ALL if one.sham]
    factors = {one.name: one.strength for one in ALL if one.strength is not None}
    facts = data.rows.filter(COUNTERFACTUAL).unique("prompt", maintain_order=True)["prompt_id"]
    return {
        **group_scores(reports, how, words),
        **unlabelled_target_scores(reports, {*lessons["label_moved_to"], *lessons["label_moved_from"]}, how, words),
        "controls": control_scores(reports, how, words),
        "detection": detection(reports, shams, how),
        "strength": {
            **strength_at_set_norms(reports, factors, how),
            "natural": strength_at_own_norms(reports, relative_norms(data, reports, reader), STRONGEST, how),
        },
        "circularity": correction_or_label(reports, data.rows.select("prompt_id", "label_moved_to"), how),
        "seeds": seed_scores(reports, shams, factors),
        **reference_scores(data, train.filter(trained), rows, reports, reader.decoder, how),
        "options": option_scores(data, questions.grid, readers, how),
        "steering": steering_success(data, train, questions.grid, reader.decoder, how),
        "teacher": agreement_with_corrections(labels, rows.filter(COUNTERFACTUAL)),
        "model": {"fact_accuracy": len(set(facts) & set(rows["prompt_id"])) / len(facts)},
    }


def group_scores(reports: pl.DataFrame, how: Evaluation, words: Words | None = None) -> dict[str, Any]:
    """The scores of each group of reports on real gradients that has any."""
    groups = real_groups(reports).items()
    return {name: with_calibration(rows, how, words) for name, rows in groups if len(rows)}


def unlabelled_target_scores(
    reports: pl.DataFrame, named: Collection[str], how: Evaluation, words: Words | None = None
) -> dict[str, Any]:
    """The group `held_out_entity`, if there is such a report: held-out targets that no training label names at all.

    `named`: the words that training labels name as moved to or as moved from. No label says that a held-out target is
    moved to, but a projector that has learnt to read it as moved from may know it by the sign. The strict test is of
    targets in neither place.
    """
    rows = real_groups(reports)["held_out_target"].filter(~pl.col("target").is_in(list(named)))
    return {"held_out_entity": with_calibration(rows, how, words)} if len(rows) else {}


def with_calibration(rows: pl.DataFrame, how: Evaluation, words: Words | None) -> dict[str, Any]:
    """The summary of a group's reports, how many distinct gradients they are of, and how calibrated confidence is.

    `calibration_error`: expected calibration error of the confidence as the probability that the named target is right.
    """
    once = once_each(rows)
    columns = once["confidence"].to_numpy(), once["right"].to_numpy()
    error = calibration(*columns, once["target"].to_list(), how)
    found = summary(rows, how, words)
    return found | {"gradients": rows["prompt_id"].n_unique(), "calibration_error": error}


def once_each(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a vector that was read and seed: target, confidence, and the share of its reports that is right.

    A vector has one confidence, in front of however many hosts it is reported.
    """
    read = rows.group_by("condition", "prompt_id", "seed", maintain_order=True)
    means = pl.col("confidence").cast(pl.Float64).mean(), pl.col("target_right").mean().alias("right")
    return read.agg(pl.col("target").first(), *means)


def control_scores(reports: pl.DataFrame, how: Evaluation, words: Words | None = None) -> dict[str, Any]:
    """The scores of each control, with chance and the paired difference to the real gradient on the same cases.

    The `difference` of a score is real minus control, on the rows with the same gradient and host; the real reports are
    averaged over projector seeds first, since a control without a projector has one report for all. The interval is a
    bootstrap over target entities of the pairs. One that includes zero is no effect.
    """
    on = ["prompt_id", "host_prompt_id"]
    means = (pl.col(column).mean().alias(f"{column}_real") for column in SCORES.values())
    real = real_groups(reports)["decoupling"].group_by(on).agg(*means)
    found = {}
    for (control,), rows in reports.group_by("condition", maintain_order=True):
        if control == "real":
            continue
        pairs = rows.join(real, on=on, how="inner", maintain_order="left")
        gaps = {
            name: (pairs[f"{column}_real"] - pairs[column].cast(pl.Float64)).to_numpy()
            for name, column in SCORES.items()
        }
        scores = summary(rows, how, words, with_chance=True)
        found[str(control)] = scores | with_differences(
            {name: scores[name] for name in SCORES}, gaps, pairs["target"].to_list(), how
        )
    return found


def detection(reports: pl.DataFrame, shams: Sequence[str], how: Evaluation) -> dict[str, Any]:
    """How often a pressure is reported where there is one, and where there is none; and how calibrated confidence is.

    `rate`: share of real gradients (foreign hosts) that a pressure is reported of. `shams`: how many distinct ones, of
    kinds that training has not seen, were tried. `false_alarms`: of the `sham_reports` reports on them, those that
    aren't "no pressure", malformed ones too. `shams_reported`: distinct shams with a false alarm of any projector;
    `false_alarms_high`: exact one-sided upper 95 % bound of their share. `calibration_error`: as of a group, over
    gradients and shams together: it says how far the one number can be trusted on such a mixture, most of which is
    shams; the groups have that of gradients alone.
    """
    real = real_groups(reports)["decoupling"]
    tried = reports.filter(pl.col("condition").is_in(list(shams)))
    distinct = tried.group_by("condition", "prompt_id").agg(ALARM.any().alias("alarm"))
    reported = int(distinct["alarm"].sum())
    both = once_each(pl.concat([real, tried]))
    return {
        **estimates({"rate": real["pressure"].to_numpy()}, real["target"].to_list(), how),
        "shams": len(distinct),
        "shams_reported": reported,
        "sham_reports": len(tried),
        "false_alarms": tried.filter(ALARM).height,
        "false_alarms_high": exact_high(reported, len(distinct)),
        "calibration_error": Estimate(calibration_error(both["confidence"].to_numpy(), both["right"].to_numpy())),
    }


def strength_at_set_norms(reports: pl.DataFrame, factors: Mapping[str, float], how: Evaluation) -> dict[str, Any]:
    """`accuracy`: share of reports that name a gradient's strength rightly, over POOLED; and of each condition alone.

    `factors`: by condition, the norm that its gradients are scaled to, in units of the reference norm.
    """

    def accuracy(rows: pl.DataFrame) -> dict[str, Estimate]:
        return estimates({"accuracy": rows["right"].to_numpy()}, rows["target"].to_list(), how)

    marked = strength_marked(reports, factors)
    each = {name: accuracy(marked.filter(pl.col("condition") == name)) for name in factors}
    return accuracy(marked.filter(pl.col("condition").is_in(POOLED))) | each


def strength_marked(reports: pl.DataFrame, factors: Mapping[str, float]) -> pl.DataFrame:
    """The reports of conditions with a set norm; `right`: they say "strong" above the reference norm, "weak" below."""
    wanted = {name: "strong" if factor > 1 else "weak" for name, factor in factors.items()}
    rows = reports.filter(pl.col("condition").is_in(list(wanted)))
    return rows.with_columns(
        right=pl.col("strength") == pl.col("condition").replace_strict(wanted, return_dtype=pl.String)
    )


def relative_norms(data: Gathered, reports: pl.DataFrame, reader: Reader) -> pl.DataFrame:
    """Columns prompt_id and natural: ln of the norm of each reported gradient, in units of the reference norm."""
    read = data.rows.filter(pl.col("prompt_id").is_in(reports["prompt_id"].implode()))
    norms = features(torch.from_numpy(data.gradient[read["row"].to_numpy()]), reader.reference.cpu())[1][:, 0]
    return read.select("prompt_id", natural=pl.Series(norms.numpy()))


def strength_at_own_norms(
    reports: pl.DataFrame, norms: pl.DataFrame, furthest: float, how: Evaluation
) -> dict[str, Any]:
    """`accuracy`: share of the decoupling reports that name the strength of a gradient as it is.

    `share_further`: the share of its gradients that are stronger or weaker than training makes any. `median_apart`: how
    far the median gradient is from the reference norm, where "weak" passes into "strong", as |ln| of its norm in units
    of it: near zero the two words are hard to tell apart.

    Args:
        reports: all.
        norms: columns prompt_id and natural (`relative_norms`).
        furthest: the largest |ln| in training.
        how: of the intervals.
    """
    rows = real_groups(reports)["decoupling"].join(norms, on="prompt_id", how="inner", maintain_order="left")
    apart = rows.unique("prompt_id")["natural"].abs()
    right = rows["strength"] == pl.Series(["strong" if ln > 0 else "weak" for ln in rows["natural"]], dtype=pl.String)
    return {
        "share_further": (apart > furthest).mean(),
        "median_apart": apart.median(),
        **estimates({"accuracy": right.to_numpy()}, rows["target"].to_list(), how),
    }


def correction_or_label(reports: pl.DataFrame, labels: pl.DataFrame, how: Evaluation) -> dict[str, Any]:
    """Do reports say what the gradient does, or what the teacher would have said of it?

    Over reports of real gradients whose own label (`labels`: prompt_id, label_moved_to) names another target than the
    known correction: the share that says the known one, and the share that says the label's. `gradients`: how many
    distinct ones these are; without any nothing is said.
    """
    real = reports.filter(pl.col("condition") == "real").join(labels, on="prompt_id", maintain_order="left")
    rows = real.filter((pl.col("label_moved_to") != pl.col("target")) & (pl.col("label_moved_to") != ""))
    said = {"says_correction": "target", "says_label": "label_moved_to"}
    right = {name: (rows["moved_to"] == rows[column]).to_numpy() for name, column in said.items()}
    found = estimates(right, rows["target"].to_list(), how)
    return {"gradients": rows["prompt_id"].n_unique()} | found


def seed_scores(
    reports: pl.DataFrame, shams: Sequence[str], factors: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """The headline numbers of each projector seed; one without a report to count is left out.

    `<group>_<score>` for the decoupling group, held-out targets and sign-flipped gradients;
    `sign_flipped_both_words`: target and answer are swapped in the same report. The others as in `detection` and
    `strength_at_set_norms`.
    """
    found: dict[str, dict[str, float]] = {}
    for (seed,), rows in reports.group_by("seed", maintain_order=True):
        parts = {name: real_groups(rows)[name] for name in ("decoupling", "held_out_target")}
        flipped = parts["sign_flipped"] = rows.filter(pl.col("condition") == "sign_flipped")
        strength = strength_marked(rows, factors).filter(pl.col("condition").is_in(POOLED))
        marks = {f"{group}_{name}": part[column] for group, part in parts.items() for name, column in SCORES.items()}
        marks |= {
            "sign_flipped_both_words": flipped["target_right"] & flipped["answer_right"],
            "detection_rate": parts["decoupling"]["pressure"],
            "strength_accuracy": strength["right"],
        }
        tried = rows.filter(pl.col("condition").is_in(list(shams)))
        counts = {"sham_reports": len(tried), "false_alarms": tried.filter(ALARM).height}
        means = {name: float(marked.to_numpy().mean()) for name, marked in marks.items() if len(marked)}
        found[str(seed)] = means | counts
    return found


def grid_table(reports: pl.DataFrame) -> pl.DataFrame:
    """One row a gradient domain and host domain: how many reports, and the mean of each score."""
    means = [pl.col(column).mean().alias(name) for name, column in SCORES.items()]
    real = reports.filter(SEEN & (pl.col("condition") == "real"))
    cells = real.group_by("gradient_domain", "host_domain", maintain_order=True)
    return cells.agg(pl.len().alias("reports"), *means)


def condition_table(metrics: Mapping[str, Any]) -> pl.DataFrame:
    """One row a condition and score: value, interval (null: too few entities), chance (null for real gradients)."""
    rows = [
        {"condition": condition, "metric": name}
        | {part: getattr(scores[name], part) for part in ("value", "low", "high", "chance")}
        for condition, scores in {"real": metrics["decoupling"], **metrics["controls"]}.items()
        for name in SCORES
    ]
    return pl.DataFrame(rows, infer_schema_length=None)
