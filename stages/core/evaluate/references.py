"""References: what probe, lens and retrieval name on the gradients that the reports are about, scored alike."""

from typing import Any

import polars as pl
import torch

from ..data.gathering import Gathered
from ..reader.reader import Reader
from .baselines import lens, nearest, nearest_entities, probe
from .scores import SAID, SCORES, real_groups
from .statistics import estimates, with_differences


def reference_scores(
    data: Gathered, train: pl.DataFrame, rows: pl.DataFrame, reports: pl.DataFrame, reader: Reader, seed: int
) -> dict[str, Any]:
    """What can be read without the model's reports, of the very gradients that the reports are about.

    `without_model`: the entities nearest to what stands in the slots, which no model has read; `ceiling`: a linear
    probe taught the known corrections of `train`; `floor`: the lens; `retrieval`: the correction of the nearest
    training gradient. Each has its scores on the gradients of the decoupling group and, one level below by
    the group's name, on those of every other group with reports; see `against_reports`. `train`, `rows`: rows of
    `data` whose premise holds, those that references are taught and all; `reports` are of gradients among `rows`.
    """
    others = ("same_domain", "no_host")  # the gradients of the decoupling group again
    groups = {name: part for name, part in real_groups(reports).items() if name not in others and len(part)}
    asked = rows.filter(pl.col("prompt_id").is_in(set().union(*(part["prompt_id"] for part in groups.values()))))
    known, seen = train["row"].to_numpy(), data.gradient[asked["row"].to_numpy()]
    corrections = train.select("domain", moved_to="target", moved_from="answer")
    lexicon = dict(data.rows.select("target", "domain").iter_rows())
    last = len(reader.card.layers) - 1
    said = {
        "without_model": nearest_entities(reader, reader.read(torch.from_numpy(seen)), lexicon),
        "ceiling": probe(data.gradient, known, corrections, seen, seed),
        "floor": lens(reader.decoder, seen[:, last], lexicon),
        "retrieval": corrections[nearest(data.gradient, known, seen)],
    }
    scores = {}
    for name, words in said.items():
        marks = marked(asked, words)
        by_group = {group: against_reports(marks, part) for group, part in groups.items()}
        scores[name] = by_group.pop("decoupling", {}) | by_group
    return scores


def marked(cases: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """What is said of each case (columns domain, moved_to, moved_from), marked right or wrong as a report would be."""
    return cases.select(
        "prompt_id",
        "target",
        domain_right=said["domain"] == cases["domain"],
        target_right=said["moved_to"] == cases["target"],
        answer_right=said["moved_from"] == cases["answer"],
    )


def against_reports(marks: pl.DataFrame, reports: pl.DataFrame) -> dict[str, Any]:
    """The scores of the marks whose gradients the reports are about, and how much better the reports do on them.

    The `difference` of a score is reports minus reference, for domain, target and answer. A gradient counts once: its
    reports over hosts and projector seeds are averaged first (one that says nothing is wrong), then its mark is
    subtracted. The interval is over target entities of these differences; one that includes zero is no effect.
    """
    means = reports.group_by("prompt_id").agg(pl.col(SCORES[name]).mean().alias(name) for name in SAID)
    pairs = marks.join(means, on="prompt_id", how="inner", maintain_order="left")
    right = {name: pairs[SCORES[name]].to_numpy() for name in SAID}
    gaps = {name: pairs[name].to_numpy() - right[name] for name in SAID}
    clusters = pairs["target"].to_list()
    return {"reports": len(pairs)} | with_differences(estimates(right, clusters), gaps, clusters)
