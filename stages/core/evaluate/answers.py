"""Answers: what a reader says when it is asked about a felt update, in the table data/evaluation/answers.parquet.

Some questions only the reader's own knowledge answers: a prompt of the world gets the felt update in its subject's
place, "The currency of <felt> is". What is right is what the same model says of the name itself, true or not.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from ..data import grammar
from ..data.facts import World
from ..data.questions import FELT, Question
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.reports import answers_of
from ..run.seeds import keyed_fraction, keyed_int, keyed_rng
from .estimate import Estimate
from .section import Evaluation
from .statistics import by_target, chance
from .table import ANSWERS

SUBJECT = "{subject}"
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


def about(world: World, cases: pl.DataFrame, trained: Collection[str]) -> pl.DataFrame:
    """One row a case and relation that its target is a subject of: the question, in the relation's last template.

    Columns: those of `cases`, case (its number), asks (the relation), form ("trained" where the relation is one of
    `trained`, whose prompts slots were asked in pretraining, else "foreign"), question, plain (the same with the
    target's name), world (the fact), entities (all answers of the relation).
    """
    facts = facts_of(world)
    rows = [
        {
            **case,
            "case": number,
            "asks": name,
            "form": "trained" if name in trained else "foreign",
            "question": relation.templates[-1].replace(SUBJECT, FELT),
            "plain": relation.templates[-1].replace(SUBJECT, case["target"]),
            "world": facts[name, case["target"]],
            "entities": list(relation.entities),
        }
        for number, case in enumerate(cases.iter_rows(named=True))
        for _, name, relation in world.questions(world.kinds[case["target"]])
        if (name, case["target"]) in facts
    ]
    added = dict.fromkeys(("asks", "form", "question", "plain", "world"), pl.String)
    return pl.DataFrame(rows, {**cases.schema, "case": pl.Int64, **added, "entities": pl.List(pl.String)})


def facts_of(world: World) -> dict[tuple[str, str], str]:
    """The answer of each relation and subject."""
    return {(name, fact.subject): fact.answer for _, name, relation in world.relations for fact in relation.facts}


def entity(text: str, entities: Sequence[str]) -> str:
    """The longest of the entities that the text begins with; empty where there is none."""
    return max((one for one in entities if grammar.names(text, one)), key=len, default="")


def with_own(reader: Reader, rows: pl.DataFrame, tokens: int) -> pl.DataFrame:
    """The rows with `expected`: what the reader itself says of the name; rows where that is no entity are left out."""
    plain = rows.unique("plain", maintain_order=True)
    said = say(reader, plain["plain"].to_list(), None, tokens)
    own = [entity(text, names) for text, names in zip(said, plain["entities"].to_list(), strict=True)]
    known = plain.select("plain", expected=pl.Series(own, dtype=pl.String))
    return rows.join(known, on="plain", maintain_order="left").filter(pl.col("expected") != "")


def answered(
    reader: Reader, rows: pl.DataFrame, reading: str, slots: Slots | None, tokens: int, model: str = "main"
) -> pl.DataFrame:
    """The reader's answers (ANSWERS) to rows of `with_own`, with the slots of their cases, or plain text (None)."""
    chosen = None if slots is None else slots[torch.tensor(rows["case"].to_list(), dtype=torch.long)]
    said = say(reader, rows["question"].to_list(), chosen, tokens)
    named = [entity(text, names) for text, names in zip(said, rows["entities"].to_list(), strict=True)]
    return with_marks(rows, reading, named, model)


def with_marks(rows: pl.DataFrame, reading: str, said: Sequence[str], model: str = "main") -> pl.DataFrame:
    """Rows of `with_own` with what is said, marked (ANSWERS)."""
    table = rows.with_columns(
        said=pl.Series(said, dtype=pl.String), model=pl.lit(model), reading=pl.lit(reading)
    ).with_columns(right=pl.col("said") == pl.col("expected"))
    return table.select(pl.col(name).cast(kind) for name, kind in ANSWERS.items())


def by_name(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The rows with a name, one a case, in place of the felt update: a question in plain text."""
    text = [question.replace(FELT, names[case]) for question, case in rows.select("question", "case").iter_rows()]
    return rows.with_columns(question=pl.Series(text, dtype=pl.String))


def looked_up(rows: pl.DataFrame, names: Sequence[str], world: World) -> list[str]:
    """What the world's facts say of a name, one a case; empty where they say nothing: no model takes part."""
    facts = facts_of(world)
    return [facts.get((relation, str(names[case])), "") for relation, case in rows.select("asks", "case").iter_rows()]


def dealt(cases: pl.DataFrame, world: World, seed: int) -> torch.Tensor:
    """For each case the number of one with another target of the same kind, by hash; its own where there is none."""
    taken, targets = np.arange(len(cases)), cases["target"].to_numpy()
    kinds = np.array([world.kinds[name] for name in targets])
    for row, prompt in enumerate(cases["prompt_id"]):
        others = np.flatnonzero((kinds == kinds[row]) & (targets != targets[row]))
        if len(others):
            taken[row] = others[keyed_int(seed, "dealt", prompt) % len(others)]
    return torch.from_numpy(taken)


def knowledge_scores(answers: pl.DataFrame) -> dict[str, Any]:
    """By model and reading, the share of answers that are the reader's own, over relations that slots were never asked.

    `all_relations`: over all. `chance`: that of the same answers dealt at random within each relation. `differs`: where
    the reader's own answer is not the world's: the share that says its own, and the world's.
    """
    found: dict[str, Any] = {}
    for (model, reading), rows in answers.group_by("model", "reading", maintain_order=True):
        new = rows.filter(pl.col("form") == "foreign")
        differing = new.filter(pl.col("expected") != pl.col("world"))
        scores: dict[str, Any] = {**by_group(new), "all_relations": by_group(rows).get("all")}
        scores["chance"] = guessed(new)
        if len(differing):
            world = differing.with_columns(right=pl.col("said") == pl.col("world"))
            scores["differs"] = {"own": by_group(differing)["all"], "world": by_group(world)["all"]}
        found.setdefault(str(model), {})[str(reading)] = {name: one for name, one in scores.items() if one is not None}
    return found


def pooled_scores(answers: pl.DataFrame) -> dict[str, Any]:
    """By reading, the share of answers that are the reader's own, over relations that slots were never asked.

    Over all models together, which are a level of the resampling as projector seeds are; empty where there is one.
    """
    rows = answers.filter((pl.col("form") == "foreign") & (pl.col("reading") != "foreign"))
    if rows["model"].n_unique() < 2:
        return {}
    return {str(name): by_group(part) for (name,), part in rows.group_by("reading", maintain_order=True)}


def guessed(rows: pl.DataFrame) -> float | None:
    """The share right that the same answers would have, dealt at random within each relation."""
    if rows.is_empty():
        return None
    parts = [part for _, part in rows.group_by("asks", maintain_order=True)]
    return sum(chance(part["said"].to_list(), part["expected"].to_list()) * len(part) for part in parts) / len(rows)


def readings(
    reader: Reader,
    rows: pl.DataFrame,
    slots: Slots,
    names: Mapping[str, Sequence[str]],
    shuffled: torch.Tensor,
    tokens: int,
    model: str = "main",
) -> pl.DataFrame:
    """The answers to rows of `with_own` under every reading (ANSWERS).

    raw: the slots as they are. freed: without the part along the name that the model says it moves away from. named:
    plain text about the name that the model says it moves toward. shuffled: another case's slots.

    `slots`, `shuffled`: one row a case. `names`: what the model's own reports name, a case: `moved_to`, `moved_from`.
    """
    freed = reader.freed(slots, names["moved_to"], names["moved_from"])
    return pl.concat(
        [
            answered(reader, rows, "raw", slots, tokens, model),
            answered(reader, rows, "freed", freed, tokens, model),
            answered(reader, by_name(rows, names["moved_to"]), "named", None, tokens, model),
            answered(reader, rows, "shuffled", slots[shuffled], tokens, model),
        ]
    )
