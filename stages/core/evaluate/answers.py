"""Answers: what a reader says when it is asked about a felt update, in the table data/evaluation/answers.parquet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from ..data import grammar
from ..data.facts import World
from ..data.questions import Question
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.reports import answers_of
from ..run.seeds import keyed_fraction, keyed_int, keyed_rng
from .estimate import Estimate
from .section import Evaluation
from .statistics import by_target, chance
from .table import ANSWERS

GROUPS = {"seen": "none", "held_out_target": "target", "held_out_kind": "kind"}
"""Groups of gradients that are asked about, and their value of `held_out`."""


def asked(
    reader: Reader, cases: pl.DataFrame, slots: Slots, questions: dict[str, Question], world: World, how: Evaluation
) -> pl.DataFrame:
    """Every question in its first and its last form, each about every case (ANSWERS).

    In half of the yes/no questions the kind asked about is the target's, in half another; a choice is between the
    target and the answer, in half of the cases in either order. Whether a pressure is noticed is asked of the update in
    half of the cases, of a random direction in the others.
    """
    hosts, felt, found = cases["host"].to_list(), slots, []
    for name, question in questions.items():
        slots = with_shams(reader, cases, felt, how.seed) if question.expects == "notice" else felt
        for form, text in (("trained", question.forms[0]), ("held_out", question.forms[-1])):
            rows = [filled(text, case, world, how.seed) for case in cases.iter_rows(named=True)]
            same = {"model": "main", "reading": "asked", "asks": name, "form": form, "world": None}
            said = answers_of(reader, hosts, [row["question"] for row in rows], slots, how.report_tokens)
            for row, answer in zip(rows, said, strict=True):
                found.append(row | same | {"said": answer, **marked(question.expects, answer, row, world)})
    return pl.DataFrame([{name: row[name] for name in ANSWERS} for row in found], ANSWERS)


def noticed(case: Mapping[str, Any], seed: int) -> bool:
    """Whether the slots of a case hold its update when it is asked if a pressure is noticed: in half of the cases."""
    return keyed_fraction(seed, "notice", case["prompt_id"]) < 0.5


def with_shams(reader: Reader, cases: pl.DataFrame, slots: Slots, seed: int) -> Slots:
    """The slots, in those cases that are not `noticed` filled as by a gradient in a random direction."""
    shape = (len(reader.card.places) * len(reader.card.layers), reader.card.d_model)
    noise = [keyed_rng(seed, "sham", case).standard_normal(shape, np.float32) for case in cases["prompt_id"]]
    with torch.no_grad():
        shams = reader.read(torch.from_numpy(np.stack(noise)))
    kept = torch.tensor([noticed(case, seed) for case in cases.iter_rows(named=True)], device=slots.felt.device)
    own = kept[:, None, None]
    felt, opposite = torch.where(own, slots.felt, shams.felt), torch.where(own, slots.opposite, shams.opposite)
    return Slots(felt, opposite, slots.count)


def filled(text: str, case: dict[str, Any], world: World, seed: int) -> dict[str, Any]:
    """The case with the question's text, its other fields filled, the kind that is asked about, and `noticed`."""
    kind = world.kinds[case["target"]]
    others = sorted(world.domains.keys() - {kind}) or [kind]
    other = others[keyed_int(seed, "kind", case["prompt_id"]) % len(others)]
    asked_kind = kind if keyed_fraction(seed, "yes", case["prompt_id"]) < 0.5 else other
    names = [case["target"], case["answer"]]
    one, two = names if keyed_fraction(seed, "first", case["prompt_id"]) < 0.5 else reversed(names)
    for field, value in {"{kind}": asked_kind, "{one}": one, "{other}": two}.items():
        text = text.replace(field, value)
    return {**case, "question": text, "asked_kind": asked_kind, "noticed": noticed(case, seed)}


def marked(expects: str, said: str, case: dict[str, Any], world: World) -> dict[str, Any]:
    """What is expected of an answer, and whether it is right: whether both have the same gist."""
    target, kind = case["target"], world.kinds[case["target"]]
    expected = {
        "report": grammar.report(world.domains[kind], target, case["answer"]),
        "toward": target,
        "away": grammar.away(target, case["answer"]),
        "choice": target,
        "field": grammar.field(target, world.domains[kind]),
        "kind": grammar.kind(target, kind, case["asked_kind"]),
        "name": target,
        "notice": grammar.YES if case["noticed"] else grammar.NO,
    }[expects]
    return {"expected": expected, "right": gist(expects, said) == gist(expects, expected)}


def gist(expects: str, said: str) -> str:
    """What of an answer's first line decides whether it is right.

    Of a report the name that it moves to, of "away from what" the name moved from, of yes/no questions about a kind and
    of fields the last word, of "notice" the first one, of a name what stands before the next mark of a few-shot prompt.
    """
    said = said.partition("\n")[0]
    if expects == "report":
        return grammar.parse_report(said).moved_to
    if expects == "away":
        return said.partition(f"{grammar.FROM} ")[2]
    if expects in ("field", "kind"):
        return "".join(said.split()[-1:])
    if expects == "notice":
        return "".join(re.findall(r"\w+", said.lower())[:1])
    return re.split(r" *(?:[;,=]|->)", said)[0].rstrip(" .") if expects == "name" else said


def by_group(rows: pl.DataFrame) -> dict[str, Estimate]:
    """The share of right answers, of all and of each group of gradients; intervals over targets and models."""
    rows = rows.with_columns(seed=pl.col("model").rank("dense"))
    parts = {"all": rows, **{name: rows.filter(pl.col("held_out") == value) for name, value in GROUPS.items()}}
    return {name: by_target(part, {"right": part["right"]})["right"] for name, part in parts.items() if len(part)}


def question_scores(answers: pl.DataFrame, questions: Mapping[str, Question]) -> dict[str, Any]:
    """By question and form, the share of right answers; of all also that of the same answers dealt at random."""
    found: dict[str, Any] = {}
    for (name, form), rows in answers.group_by("asks", "form", maintain_order=True):
        said, wanted = (
            [gist(questions[str(name)].expects, text) for text in rows[side]] for side in ("said", "expected")
        )
        scores = by_group(rows)
        scores["all"] = replace(scores["all"], chance=chance(said, wanted))
        found.setdefault(str(name), {})[str(form)] = scores
    return found


def say(reader: Reader, questions: Sequence[str], slots: Slots | None, tokens: int) -> list[str]:
    """What the reader says to these questions without a host prompt."""
    return answers_of(reader, [None] * len(questions), questions, slots, tokens)
