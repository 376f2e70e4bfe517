"""Scores: reports, and what is read without them, marked against the known corrections, and averaged by group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from ..data.gathering import Gathered
from ..data.grammar import Report, parse_report
from ..reader.reader import Reader
from .baselines import lens, nearest, nearest_entities, probe
from .cases import HELD_OUT, NO_HOST, SEEN
from .estimate import Estimate
from .statistics import by_target, chance, estimates, with_differences
from .table import REPORTS

SCORES = {
    "domain_accuracy": "domain_right",
    "target_accuracy": "target_right",
    "answer_accuracy": "answer_right",
    "host_intrusion": "host_intrusion",
}
"""The column of REPORTS whose mean each score is."""
SAID = {
    "domain_accuracy": ("domain", "gradient_domain"),
    "target_accuracy": ("moved_to", "target"),
    "answer_accuracy": ("moved_from", "answer"),
}
"""Of each accuracy the column of what is said, and that of what is right."""


def scored(cases: pl.DataFrame, reports: Sequence[str]) -> pl.DataFrame:
    """The cases with their reports parsed and marked; a report is the first line of what is written."""
    parsed = [{"report": report, **vars(parse_report(report.partition("\n")[0]))} for report in reports]
    columns = "report", *Report.__dataclass_fields__
    said = pl.DataFrame(parsed, schema={name: REPORTS[name] for name in columns})
    marks = {
        "pressure": pl.col("pressure") & ~pl.col("malformed"),
        "domain_right": pl.col("domain") == pl.col("gradient_domain"),
        "target_right": pl.col("moved_to") == pl.col("target"),
        "answer_right": pl.col("moved_from") == pl.col("answer"),
        "host_intrusion": (pl.col("domain") == pl.col("host_domain"))
        & (pl.col("host_domain") != pl.col("gradient_domain")),
    }
    table = pl.concat([cases, said], how="horizontal").with_columns(**marks)
    return table.select(pl.col(name).cast(kind) for name, kind in REPORTS.items())


def real_groups(reports: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The reports on real gradients by what is asked; "decoupling": in front of hosts of other domains."""
    real = reports.filter(pl.col("condition") == "real")
    own, none = pl.col("host_domain") == pl.col("gradient_domain"), pl.col("host_domain") == NO_HOST
    return {
        "decoupling": real.filter(SEEN & ~own & ~none),
        "same_domain": real.filter(SEEN & own),
        "no_host": real.filter(SEEN & none),
        **{f"held_out_{reason}": real.filter(pl.col("held_out") == reason) for reason in HELD_OUT},
        "corrections": real.filter(pl.col("held_out") == "correction"),
    }


@dataclass(frozen=True)
class Words:
    """The words that a report can mean something by: every entity and every domain of the tables."""

    entities: frozenset[str]
    domains: frozenset[str]

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Words":
        """Of the prompts of all domains: columns target, answer (may be null) and domain."""
        entities = pl.concat([rows["target"], rows["answer"]]).drop_nulls()
        return cls(frozenset(entities), frozenset(rows["domain"]))

    def vague(self, rows: pl.DataFrame) -> pl.Series:
        """Whether a report tells of a pressure, but names no entity (neither to nor from), or no domain."""
        named = rows["moved_to"].is_in(list(self.entities)) | rows["moved_from"].is_in(list(self.entities))
        return rows["pressure"] & ~(named & rows["domain"].is_in(list(self.domains)))


def summary(rows: pl.DataFrame, words: Words | None = None, with_chance: bool = False) -> dict[str, Any]:
    """The mean of each score, with its interval over target entities, and how many reports are of no use.

    A score counts a report that says nothing as wrong; its `spoken` is over the `reports_spoken` reports alone that
    tell of a pressure, so that what is read badly isn't mistaken for what is silenced.
    `malformed`, `no_pressure` and `vague` (told with `words`: of a pressure, but of no known entity or no known domain)
    are shares of all reports. `with_chance`: also the mean that the same reports would have on gradients dealt at
    random.
    """
    spoken = rows.filter("pressure")
    found: dict[str, Any] = {
        "reports": len(rows),
        "reports_spoken": len(spoken),
        "malformed": rows["malformed"].mean(),
        "no_pressure": (~rows["pressure"] & ~rows["malformed"]).mean(),
    }
    if words:
        found["vague"] = words.vague(rows).mean()
    every, speaking = (mean_scores(part, with_chance) for part in (rows, spoken))
    return found | {name: replace(one, spoken=speaking.get(name)) for name, one in every.items()}


def by_words(reports: pl.DataFrame) -> dict[str, Any]:
    """How well names of one word are read and longer ones, of real gradients and of sign-flipped ones.

    `<group>_one_word`: both names have one word; `<group>_several_words`: one has more. `to` and `from`: the whole name
    is right. `to_first`, `from_first`: its first word is. A gradient holds no later word of the name that it moves
    away from: the model is led along the target's words. With its sign flipped that holds for the name moved to.
    """
    real = real_groups(reports)
    groups = {name: real[name] for name in ("decoupling", "held_out_target", "held_out_kind")}
    groups["sign_flipped"] = reports.filter(pl.col("condition") == "sign_flipped")
    several = pl.any_horizontal(pl.col("target", "answer").str.contains(" "))
    found = {}
    for group, rows in groups.items():
        for length, part in (("one_word", rows.filter(~several)), ("several_words", rows.filter(several))):
            marks = {}
            for name, said, known in (("to", "moved_to", "target"), ("from", "moved_from", "answer")):
                first = part.select(pl.col(said, known).str.split(" ").list.first())
                marks |= {name: part[said] == part[known], f"{name}_first": first[said] == first[known]}
            if len(part):
                found[f"{group}_{length}"] = {"reports": len(part), **by_target(part, marks)}
    return found


def silence_scores(reports: pl.DataFrame, words: Words) -> dict[str, Any]:
    """What is reported of real gradients that correct no fact, as shares of their reports.

    `already_said`: toward what the model says anyway; `any_word`: toward a word that is in no name. `itself`: what
    the gradient is toward is named; `absent`: an entity is named that has no part in it.
    """
    found = {}
    for condition in ("already_said", "any_word"):
        rows = reports.filter(pl.col("condition") == condition)
        absent = [
            pl.col(said).is_in(list(words.entities)) & (pl.col(said) != pl.col(part))
            for said, part in (("moved_to", "target"), ("moved_from", "answer"))
        ]
        marks = rows.select(
            no_pressure=~pl.col("pressure") & ~pl.col("malformed"),
            itself="target_right",
            absent=pl.any_horizontal(absent),
        )
        found[condition] = {"reports": len(rows)} | by_target(rows, marks.to_dict())
    return found


def mean_scores(rows: pl.DataFrame, with_chance: bool) -> dict[str, Estimate]:
    """The mean of each score over these reports, with its interval and, where asked for, chance."""
    found = by_target(rows, {name: rows[column] for name, column in SCORES.items()})
    if with_chance and len(rows):
        for name, (said, gold) in SAID.items():
            found[name] = replace(found[name], chance=chance(rows[said].to_list(), rows[gold].to_list()))
    return found


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
