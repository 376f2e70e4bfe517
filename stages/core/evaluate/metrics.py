"""Metrics: every number of metrics.json, and the tables for plots, from the marked reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from ..data.gathering import Gathered, Means
from ..data.questions import Question
from ..engine.samples import samples_of
from ..labels.agreement import agreement_with_corrections
from ..model.decoder import Decoder
from ..reader.reader import Reader
from ..steps.virtual_step import virtual_steps
from .answers import GROUPS, knowledge_scores, pooled_scores, question_scores
from .cases import COUNTERFACTUAL, SEEN, Questions
from .conditions import ALL
from .estimate import Estimate
from .scores import SCORES, Words, by_words, mean_scores, real_groups, reference_scores, silence_scores, summary
from .section import Evaluation
from .statistics import GAP, by_target, calibration, calibration_error, estimates, exact_high, with_differences

ALARM = pl.col("pressure") | pl.col("malformed")
"""Whether a report on a sham is a false alarm: all but "no pressure" is."""


def metrics_of(
    reports: pl.DataFrame,
    answers: pl.DataFrame,
    peers: Mapping[str, pl.DataFrame],
    data: Gathered,
    questions: Questions,
    reader: Reader,
    sets: Mapping[str, Question],
) -> dict[str, Any]:
    """The groups of metrics.json: nested dicts of estimates and plain numbers.

    Of all reports (REPORTS) and answers (ANSWERS), and of each peer's reports on its own gradients (REPORTS), by its
    name. `reader`: of the first projector seed. `sets`: questions by name.
    """
    how, rows = questions.settings, questions.rows
    words = Words.of(data.rows)
    trained = ~pl.col("domain").is_in(reader.card.held_out_domains)
    shams = [one.name for one in ALL if one.sham]
    known = rows.filter(COUNTERFACTUAL)
    label = {name: f"label_{name}" for name in ("moved_to", "moved_from", "domain")}
    facts = data.rows.filter(COUNTERFACTUAL).unique("prompt", maintain_order=True)["prompt_id"]
    return {
        **group_scores(reports, how, words),
        "controls": control_scores(reports, words),
        "words": by_words(reports),
        "silence": silence_scores(reports, words),
        "detection": detection(reports, shams),
        "questions": question_scores(answers.filter(pl.col("reading") == "asked"), sets),
        "knowledge": knowledge_scores(answers.filter(pl.col("reading") != "asked")),
        "pooled": pooled_scores(answers.filter(pl.col("reading") != "asked")),
        "peers": {name: peer_scores(found) for name, found in peers.items()},
        "circularity": correction_or_label(reports, data.rows.select("prompt_id", "label_moved_to")),
        "seeds": seed_scores(reports, shams),
        **reference_scores(data, questions.train.filter(trained), rows, reports, reader, how.seed),
        "steering": steering_success(data, questions.train, questions.grid, reader.decoder, how),
        "teacher": agreement_with_corrections(known.select("prompt_id", **label).drop_nulls("moved_to"), known),
        "model": {"fact_accuracy": len(set(facts) & set(rows["prompt_id"])) / len(facts)},
    }


def group_scores(reports: pl.DataFrame, how: Evaluation, words: Words | None = None) -> dict[str, Any]:
    """The summary of each group of reports on real gradients that has any, and how many distinct gradients they are of.

    `calibration_error`: expected calibration error of the confidence as the probability that the named target is right.
    """
    found = {}
    for name, rows in real_groups(reports).items():
        if len(rows):
            once = once_each(rows)
            columns = once["confidence"].to_numpy(), once["right"].to_numpy()
            error = calibration(*columns, once["target"].to_list(), how.bootstrap, how.seed)
            counts = {"gradients": rows["prompt_id"].n_unique(), "calibration_error": error}
            found[name] = summary(rows, words) | counts
    return found


def peer_scores(reports: pl.DataFrame) -> dict[str, Any]:
    """The scores of a peer's reports on its own gradients, by group of gradients."""
    parts = {name: reports.filter(pl.col("held_out") == value) for name, value in GROUPS.items()}
    return {name: mean_scores(part, with_chance=False) for name, part in parts.items() if len(part)}


def once_each(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a vector that was read and seed: target, confidence, and the share of its reports that is right.

    A vector has one confidence, in front of however many hosts it is reported.
    """
    read = rows.group_by("condition", "prompt_id", "seed", maintain_order=True)
    means = pl.col("confidence").cast(pl.Float64).mean(), pl.col("target_right").mean().alias("right")
    return read.agg(pl.col("target").first(), *means)


def control_scores(reports: pl.DataFrame, words: Words | None = None) -> dict[str, Any]:
    """The scores of each control, with chance and the paired difference to the real gradient on the same cases.

    The `difference` of a score is real minus control, on the rows with the same gradient and host; the real reports are
    averaged over projector seeds first, since a control without a projector has one report for all. The interval is
    over target entities of the pairs; one that includes zero is no effect.
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
        scores = summary(rows, words, with_chance=True)
        found[str(control)] = scores | with_differences(
            {name: scores[name] for name in SCORES}, gaps, pairs["target"].to_list()
        )
    return found


def detection(reports: pl.DataFrame, shams: Sequence[str]) -> dict[str, Any]:
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
        **by_target(real, {"rate": real["pressure"]}),
        "shams": len(distinct),
        "shams_reported": reported,
        "sham_reports": len(tried),
        "false_alarms": tried.filter(ALARM).height,
        "false_alarms_high": exact_high(reported, len(distinct)),
        "calibration_error": Estimate(calibration_error(both["confidence"].to_numpy(), both["right"].to_numpy())),
    }


def correction_or_label(reports: pl.DataFrame, labels: pl.DataFrame) -> dict[str, Any]:
    """Do reports say what the gradient does, or what the teacher would have said of it?

    Over reports of real gradients whose own label (`labels`: prompt_id, label_moved_to) names another target than the
    known correction: the share that says the known one, and the share that says the label's. `gradients`: how many
    distinct ones these are; without any nothing is said.
    """
    real = reports.filter(pl.col("condition") == "real").join(labels, on="prompt_id", maintain_order="left")
    rows = real.filter((pl.col("label_moved_to") != pl.col("target")) & (pl.col("label_moved_to") != ""))
    said = {"says_correction": "target", "says_label": "label_moved_to"}
    right = {name: (rows["moved_to"] == rows[column]).to_numpy() for name, column in said.items()}
    found = estimates(right, rows["target"].to_list())
    return {"gradients": rows["prompt_id"].n_unique()} | found


def seed_scores(reports: pl.DataFrame, shams: Sequence[str]) -> dict[str, dict[str, float]]:
    """The headline numbers of each projector seed; one without a report to count is left out.

    `<group>_<score>` for the decoupling group, held-out targets and sign-flipped gradients;
    `sign_flipped_both_words`: target and answer are swapped in the same report. The others as in `detection`.
    """
    found: dict[str, dict[str, float]] = {}
    for (seed,), rows in reports.group_by("seed", maintain_order=True):
        parts = {name: real_groups(rows)[name] for name in ("decoupling", "held_out_target")}
        flipped = parts["sign_flipped"] = rows.filter(pl.col("condition") == "sign_flipped")
        marks = {f"{group}_{name}": part[column] for group, part in parts.items() for name, column in SCORES.items()}
        marks |= {
            "sign_flipped_both_words": flipped["target_right"] & flipped["answer_right"],
            "detection_rate": parts["decoupling"]["pressure"],
        }
        tried = rows.filter(pl.col("condition").is_in(list(shams)))
        counts = {"sham_reports": len(tried), "false_alarms": tried.filter(ALARM).height}
        means = {name: float(marked.to_numpy().mean()) for name, marked in marks.items() if len(marked)}
        found[str(seed)] = means | counts
    return found


def steering_success(
    data: Gathered, train: pl.DataFrame, test: pl.DataFrame, decoder: Decoder, settings: Evaluation
) -> dict[str, Any]:
    """Does a steering vector do what the update direction does, and the other way round?

    For each step size: the share of test rows whose most likely next token becomes the target's first, when the model
    is moved along the update direction, and when it's moved along the steering vector from answer to target (difference
    of mean training activations). `cosine`: the mean cosine between the two. Intervals over target
    entities. `rows`: those with training prompts of both their entities; without any nothing else is said.
    """
    means = Means.of(data.activation, train, {*test["target"], *test["answer"]})
    kept = test.filter(pl.all_horizontal(pl.col("target", "answer").is_in(list(means.by_name))))
    found: dict[str, Any] = {"rows": len(kept)}
    if kept.is_empty():
        return found
    steering = means.moves(kept)[:, :1]
    update = -data.gradient[kept["row"].to_numpy()][:, :1]
    norms = np.linalg.norm(steering, axis=-1) * np.linalg.norm(update, axis=-1)
    cosine = ((steering * update).sum(-1) / norms)[:, 0].astype(np.float64)
    clusters = kept["target"].to_list()
    found |= estimates({"cosine": cosine}, clusters, GAP)
    samples = samples_of(decoder, kept)
    for name, vectors in (("update_direction", update), ("steering_vector", steering)):
        ranks = np.zeros((len(kept), len(settings.step_sizes)), dtype=int)
        given = decoder, samples, -vectors.astype(np.float32), data.layers[:1], settings.step_sizes
        for batch in virtual_steps(*given, top_tokens=1, continuation_tokens=0):
            ranks[batch.rows] = batch.target_rank[:, 0]
        first = {f"{name}_{size:g}": ranks[:, step] == 1 for step, size in enumerate(settings.step_sizes)}
        found |= estimates(first, clusters)
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
