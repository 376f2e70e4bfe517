"""Edits: facts are changed in the model by fine-tuning, and what it says of a felt name has to change with them."""

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
from .statistics import estimates

STEPS = 200
ENOUGH = 0.005
"""Nats, summed over the templates."""
RATE = 3e-4
OTHERS = 200
"""Answers about other names and relations that an edit must leave as they are."""


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
    decoder, marks = reader.decoder, []
    with trainable(decoder.blocks) as put_back:
        for number, fact in enumerate(chosen.iter_rows(named=True)):
            others = [name for name in fact["entities"] if name not in (fact["expected"], fact["target"])]
            new = others[keyed_int(how.seed, "edited", fact["plain"]) % len(others)]
            prompts = [each.replace(SUBJECT, fact["target"]) for each in relations[fact["asks"]].templates[:-1]]
            samples = [Sample(tuple(decoder.tokens(each)), tuple(decoder.continuation(new))) for each in prompts]
            tune(decoder, samples, STEPS, RATE, ENOUGH)
            own = answered(reader, chosen[number : number + 1], "raw", slots, how.report_tokens)
            kept = (sample["asks"] != fact["asks"]) | (sample["target"] != fact["target"])
            now = answered(reader, sample, "raw", slots, how.report_tokens)["said"]
            changed = (now != before).filter(kept).mean() or 0.0  # where nothing else is asked about, nothing changes
            marks.append((own["said"][0] == new, changed, learnt(reader, fact, new, how)))
            put_back()
    flips, others_change, told = np.array(marks, dtype=float).reshape(-1, 3).T
    found = {"flips": flips, "others_change": others_change, "learnt": told}
    return {"edits": len(marks)} | estimates(found, chosen["target"].to_list())


def learnt(reader: Reader, fact: dict[str, Any], new: str, how: Evaluation) -> bool:
    """Whether the model says the new answer in plain text."""
    return entity(say(reader, [fact["plain"]], None, how.report_tokens)[0], fact["entities"]) == new
