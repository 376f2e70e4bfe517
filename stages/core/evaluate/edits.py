"""Real steps: facts are changed in the model by fine-tuning.

An edit: what the model says of a felt name has to change with the fact. A step along a gradient: once the model is
fine-tuned on a correction, does it say what its report had said before?
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from ..data.facts import World
from ..engine.samples import Sample
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..run.seeds import keyed_int
from .answers import SUBJECT, answered, entity, say
from .cases import by_hash
from .fine_tuning import trainable, tune
from .section import Evaluation
from .statistics import chance, estimates

STEPS = 200
ENOUGH = 0.005
"""Nats, summed over the templates."""
RATE = 3e-4
OTHERS = 200
"""Answers about other names and relations that an edit must leave as they are."""
NEIGHBOURS = 8
"""Other facts of a correction's relation that are asked for after a step on it."""


def edit_scores(reader: Reader, rows: pl.DataFrame, slots: Slots, world: World, how: Evaluation) -> dict[str, Any]:
    """What a real fine-tuning step on one fact does to the answers about what is felt.

    For each of `how.edits` facts that a felt name is asked about, in a relation that slots were never asked: the model
    is fine-tuned (the blocks' weights, at most STEPS steps of Adam, until the loss is at most ENOUGH) on the fact with
    another answer, in the relation's templates but the last. `flips`: the felt name's question, in the last
    template, is answered with the new answer. `others_change`: of OTHERS answers about other felt names and relations,
    the share that is not as before. `learnt`: the plain question is answered with the new answer. Weights are put back
    each time. `rows`: the questions (`knowledge.with_own`). `slots`: one row a case, as the questions are asked.
    """
    asked = rows.filter(pl.col("form") == "foreign").unique(["asks", "target"], maintain_order=True)
    chosen = by_hash(asked, how.seed, "edit", "plain")[: how.edits]
    sample = by_hash(rows, how.seed, "others", "plain", "prompt_id")[:OTHERS]
    before = answered(reader, sample, "raw", slots, how.report_tokens)["said"]
    relations = {name: relation for _, name, relation in world.relations}
    marks = []
    with trainable(reader.decoder.blocks) as put_back:
        for number, fact in enumerate(chosen.iter_rows(named=True)):
            others = [name for name in fact["entities"] if name not in (fact["expected"], fact["target"])]
            new = others[keyed_int(how.seed, "edited", fact["plain"]) % len(others)]
            samples = [
                sample_of(reader, template.replace(SUBJECT, fact["target"]), new)
                for template in relations[fact["asks"]].templates[:-1]
            ]
            tune(reader.decoder, samples, STEPS, RATE, ENOUGH)
            own = answered(reader, chosen[number : number + 1], "raw", slots, how.report_tokens)
            kept = (sample["asks"] != fact["asks"]) | (sample["target"] != fact["target"])
            now = answered(reader, sample, "raw", slots, how.report_tokens)["said"]
            changed = (now != before).filter(kept).mean() or 0.0  # where nothing else is asked about, nothing changes
            marks.append((own["said"][0] == new, changed, learnt(reader, fact, new, how)))
            put_back()
    flips, others_change, told = np.array(marks, dtype=float).reshape(-1, 3).T
    found = {"flips": flips, "others_change": others_change, "learnt": told}
    return {"edits": len(marks)} | estimates(found, chosen["target"].to_list())


def step_scores(
    reader: Reader, cases: pl.DataFrame, predictors: Mapping[str, Sequence[str]], world: World, how: Evaluation
) -> dict[str, Any]:
    """How well names that are read beforehand say what the model will say after real steps.

    For each of `how.edits` corrections: the blocks' weights are fine-tuned on it (at most STEPS steps of Adam, until
    its loss is at most ENOUGH), and the model is asked the same prompt (`corrected`), the relation's last template
    (`paraphrase`), and that of NEIGHBOURS other facts (`neighbours`). Weights are put back each time. A look-up reads
    what a predictor names, one a case: on the first two the model will say that, with chance beside it, the same names
    dealt at random; on neighbours what it said before (`unchanged`), which is a predictor of all three. `learnt`: the
    share of paraphrases whose answer is the target.
    """
    relations = {name: relation for _, name, relation in world.relations}
    subjects = {
        template.replace(SUBJECT, fact.subject): fact.subject
        for relation in relations.values()
        for fact in relation.facts
        for template in relation.templates[:-1]
    }
    named = [pl.Series(f"by_{name}", names, dtype=pl.String) for name, names in predictors.items()]
    rows = cases.with_columns(named).filter(pl.col("prompt").is_in(list(subjects)))
    chosen = by_hash(rows, how.seed, "after step", "prompt_id")[: how.edits]
    if chosen.is_empty():
        return {"steps": 0}
    before, after = [], []
    with trainable(reader.decoder.blocks) as put_back:
        for case in chosen.iter_rows(named=True):
            relation, subject = relations[case["relation"]], subjects[case["prompt"]]
            facts = pl.DataFrame({"subject": [fact.subject for fact in relation.facts if fact.subject != subject]})
            others = by_hash(facts, how.seed, "neighbours", "subject")["subject"][:NEIGHBOURS]
            asked = [case["prompt"], *(relation.templates[-1].replace(SUBJECT, name) for name in (subject, *others))]
            sample = sample_of(reader, case["prompt"], case["target"])
            for said, steps in ((before, 0), (after, STEPS)):
                tune(reader.decoder, [sample], steps, RATE, ENOUGH)
                texts = say(reader, asked, None, how.report_tokens)
                said.append([entity(text, list(relation.entities)) for text in texts])
            put_back()
    targets, found = chosen["target"].to_list(), {}
    for at, part in enumerate(("corrected", "paraphrase")):
        said = [answers[at] for answers in after]
        names = {name: chosen[f"by_{name}"].to_list() for name in predictors}
        names["unchanged"] = [answers[at] for answers in before]
        marks = {name: np.array(said) == each for name, each in names.items()}
        scores = estimates(marks, targets)
        found[part] = {name: replace(one, chance=chance(names[name], said)) for name, one in scores.items()}
    kept = [np.mean(np.array(one[2:]) == two[2:]) for one, two in zip(before, after, strict=True) if len(one) > 2]
    learnt = np.array([answers[1] for answers in after]) == targets
    found["neighbours"] = estimates({"unchanged": np.array(kept)}, targets[: len(kept)])
    return {"steps": len(chosen), **found, **estimates({"learnt": learnt}, targets)}


def learnt(reader: Reader, fact: dict[str, Any], new: str, how: Evaluation) -> bool:
    """Whether the model says the new answer in plain text."""
    return entity(say(reader, [fact["plain"]], None, how.report_tokens)[0], fact["entities"]) == new


def sample_of(reader: Reader, prompt: str, target: str) -> Sample:
    """A prompt and what it is to be continued with."""
    decoder = reader.decoder
    return Sample(tuple(decoder.tokens(prompt)), tuple(decoder.continuation(target)), None)
