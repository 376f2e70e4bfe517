"""Knowledge: questions about the felt name that only the reader's own knowledge answers.

A prompt of the world gets the felt update in its subject's place: "The currency of <felt> is". What is right is what
the same model says of the name itself, whether that is true or not.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from ..data import grammar
from ..data.facts import World
from ..data.questions import FELT
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..run.seeds import keyed_int
from .answers import by_group, say
from .statistics import chance
from .table import ANSWERS

SUBJECT = "{subject}"


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
    return [facts.get((relation, names[case]), "") for relation, case in rows.select("asks", "case").iter_rows()]


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
