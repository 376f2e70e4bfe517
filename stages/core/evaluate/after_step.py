"""After a real step: once a model is fine-tuned on a correction, does it say what its report had said before?"""

from collections.abc import Sequence
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


def step_scores(
    reader: Reader, cases: pl.DataFrame, moved_to: Sequence[str], world: World, how: Evaluation
) -> dict[str, Any]:
    """How well reports on gradients say what the model will say after real steps along them.

    For each of `how.edits` corrections: the blocks' weights are fine-tuned on it (at most STEPS steps of Adam, until
    its loss is at most ENOUGH), and the same fact is asked in its relation's last template. `predicted`: the model says
    the name that the report moves to, with chance beside it, the same reports dealt at random. `learnt`: it says the
    target. Weights are put back each time. `moved_to`: what the reports name, a case.
    """
    relations = {name: relation for _, name, relation in world.relations}
    elsewhere = {
        template.replace(SUBJECT, fact.subject): relation.templates[-1].replace(SUBJECT, fact.subject)
        for relation in relations.values()
        for fact in relation.facts
        for template in relation.templates[:-1]
    }
    rows = cases.with_columns(moved_to=pl.Series(moved_to, dtype=pl.String)).filter(pl.col("prompt").is_in(elsewhere))
    chosen, said = by_hash(rows, how.seed, "after step", "prompt_id")[: how.edits], []
    with trainable(reader.decoder.blocks) as put_back:
        for case in chosen.iter_rows(named=True):
            tune(reader.decoder, [sample_of(reader, case["prompt"], case["target"])], STEPS, RATE, ENOUGH)
            text = say(reader, [elsewhere[case["prompt"]]], None, how.report_tokens)[0]
            said.append(entity(text, list(relations[case["relation"]].entities)))
            put_back()
    if not said:
        return {"steps": 0}
    foreseen = chosen["moved_to"].to_list()
    marks = {"predicted": np.array(said) == foreseen, "learnt": np.array(said) == chosen["target"].to_list()}
    found = estimates(marks, chosen["target"].to_list())
    found["predicted"] = replace(found["predicted"], chance=chance(foreseen, said))
    return {"steps": len(said), **found}
