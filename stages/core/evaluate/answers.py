"""Answers: what a reader says when it is asked about a felt update, in the table data/evaluation/answers.parquet."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from ..data import grammar
from ..data.facts import World
from ..data.questions import Question
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.reports import answers_of
from ..run.seeds import keyed_fraction, keyed_int
from .estimate import Estimate
from .section import Evaluation
from .statistics import estimates
from .table import ANSWERS

GROUPS = {"seen": "none", "held_out_target": "target", "held_out_kind": "kind"}
"""Groups of gradients that are asked about, and their value of `held_out`."""


def asked(
    reader: Reader, cases: pl.DataFrame, slots: Slots, questions: dict[str, Question], world: World, how: Evaluation
) -> pl.DataFrame:
    """Every question in its first and its last form, each about every case (ANSWERS).

    In half of the yes/no questions the kind asked about is the target's, in half another; a choice is between the
    target and the answer, in half of the cases in either order.
    """
    parts = []
    for name, question in questions.items():
        for form, text in (("trained", question.forms[0]), ("held_out", question.forms[-1])):
            rows = [filled(text, case, world, how.seed) for case in cases.iter_rows(named=True)]
            said = answers_of(
                reader, cases["host"].to_list(), [row["question"] for row in rows], slots, how.report_tokens
            )
            marks = [marked(question.expects, text, case, world) for text, case in zip(said, rows, strict=True)]
            parts.append(
                pl.DataFrame(rows)
                .select("prompt_id", "target", "held_out", "question")
                .with_columns(
                    pl.DataFrame(marks),
                    model=pl.lit("main"),
                    reading=pl.lit("asked"),
                    asks=pl.lit(name),
                    form=pl.lit(form),
                    said=pl.Series(said),
                    world=pl.lit(None, pl.String),
                )
            )
    return pl.concat(parts).select(pl.col(name).cast(kind) for name, kind in ANSWERS.items())


def filled(text: str, case: dict[str, Any], world: World, seed: int) -> dict[str, Any]:
    """The case with the question's text, its other fields filled, and the kind that is asked about."""
    kind = world.kinds[case["target"]]
    others = sorted(world.domains.keys() - {kind}) or [kind]
    other = others[keyed_int(seed, "kind", case["prompt_id"]) % len(others)]
    asked_kind = kind if keyed_fraction(seed, "yes", case["prompt_id"]) < 0.5 else other
    names = [case["target"], case["answer"]]
    one, two = names if keyed_fraction(seed, "first", case["prompt_id"]) < 0.5 else reversed(names)
    for field, value in {"{kind}": asked_kind, "{one}": one, "{other}": two}.items():
        text = text.replace(field, value)
    return {**case, "question": text, "asked_kind": asked_kind}


def marked(expects: str, said: str, case: dict[str, Any], world: World) -> dict[str, Any]:
    """What is expected of an answer, and whether it is right.

    Of a report the name that it moves to decides, of "away from what" the name moved from, of yes/no questions and
    fields the last word.
    """
    target, kind = case["target"], world.kinds[case["target"]]
    report = grammar.parse_report(said)
    expected = {
        "report": grammar.report(world.domains[kind], target, case["answer"]),
        "toward": target,
        "away": grammar.away(target, case["answer"]),
        "choice": target,
        "field": grammar.field(target, world.domains[kind]),
        "kind": grammar.kind(target, kind, case["asked_kind"]),
    }[expects]
    if expects == "report":
        right = report.moved_to == target
    elif expects == "away":
        right = said.partition(f"{grammar.FROM} ")[2] == case["answer"]
    elif expects in ("field", "kind"):
        right = said.split()[-1:] == expected.split()[-1:]
    else:
        right = said == expected
    return {"expected": expected, "right": right}


def by_group(rows: pl.DataFrame) -> dict[str, Estimate]:
    """The share of right answers, of all and of each group of gradients; intervals over targets and models."""
    rows = rows.with_columns(seed=pl.col("model").rank("dense"))
    parts = {"all": rows, **{name: rows.filter(pl.col("held_out") == value) for name, value in GROUPS.items()}}
    return {
        name: estimates({"right": part["right"].to_numpy()}, part["target"].to_list(), seeds=part["seed"].to_list())[
            "right"
        ]
        for name, part in parts.items()
        if len(part)
    }


def question_scores(answers: pl.DataFrame) -> dict[str, Any]:
    """By question and form, the share of right answers."""
    found: dict[str, Any] = {}
    for (name, form), rows in answers.group_by("asks", "form", maintain_order=True):
        found.setdefault(str(name), {})[str(form)] = by_group(rows)
    return found


def say(reader: Reader, questions: Sequence[str], slots: Slots | None, tokens: int) -> list[str]:
    """What the reader says to these questions without a host prompt."""
    return answers_of(reader, [None] * len(questions), questions, slots, tokens)
