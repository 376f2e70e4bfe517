"""After a real step: do reports say beforehand what a model says once it is fine-tuned on the correction?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from ..data.facts import World
from ..reader.reader import Reader
from .answers import say
from .cases import by_hash
from .edits import ENOUGH, RATE, STEPS, sample_of
from .fine_tuning import trainable, tune
from .knowledge import SUBJECT, entity
from .section import Evaluation
from .statistics import chance, estimates

NEIGHBOURS = 8
"""Other facts of the correction's relation that are asked for."""


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
