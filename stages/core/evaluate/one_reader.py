"""The scores of one reader beside what is left of them without the model; and a reader at the subject's last token."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import torch

from ..data.gathering import BLOCK_ROWS, Gathered, Stored, blocks
from ..data.places import FIRST, SUBJECT
from ..model.decoder import Decoder
from ..reader.card import Card, plain_card
from ..reader.fitting import fit_map
from ..reader.reader import Reader
from .cases import SEEN, Questions
from .interview import Interview
from .knowledge import knowledge_scores
from .references import reference_scores
from .scores import by_words, real_groups, summary


def scores_of(
    reader: Reader, data: Gathered, questions: Questions, interview: Interview, foreign: Sequence[pl.DataFrame] = ()
) -> dict[str, Any]:
    """The groups of scores of the interview's gradients as this reader reads them, and `reference_scores`.

    `words`: see `by_words`; `knowledge`: see `knowledge_scores`, by reading. `foreign`: what other models answer with
    the slots that this reader has filled (`Interview.of_foreign`, all under the name "real").
    """
    slots = interview.slots(reader, data)
    asked = interview.rows(reader, interview.cases)
    reports, answers = interview.from_knowledge(reader, interview.cases, asked, slots, "real")
    groups = {name: summary(rows) for name, rows in real_groups(reports).items() if len(rows)}
    known = questions.rows.filter((pl.col("split") == "train") & SEEN)
    beside = reference_scores(data, known, questions.rows, reports, reader, interview.how.seed)
    knowledge = knowledge_scores(pl.concat([answers, *foreign]))["real"]
    return groups | beside | {"words": by_words(reports), "knowledge": knowledge}


def at_subject(decoder: Decoder, card: Card, data: Gathered) -> tuple[Reader, Gathered] | None:
    """A reader of the gradients at the subject's last token, and these gradients; None: the stores have none there.

    It asks as `card` does. Its map is linear and fitted in closed form (`fit_map`) on the training rows with nothing
    held out, to the update direction at the last prompt token, at the last layer. It reads all layers at which there is
    a gradient: behind its last attention nothing depends on the subject.
    """
    assert isinstance(data.gradient, Stored)
    stores = data.gradient.stores
    if SUBJECT not in stores[0].attributes["places"]:
        return None
    trained = ~pl.col("domain").is_in(card.held_out_domains)
    rows = data.rows.filter((pl.col("split") == "train") & SEEN & trained)["row"].to_numpy()
    every = stores[0].attributes["layers"]
    some = Stored(stores, "gradient", every, [SUBJECT])[rows[:BLOCK_ROWS]]
    layers = [layer for number, layer in enumerate(every) if some[:, number].any()]
    if not layers:
        return None
    own = Stored(stores, "gradient", layers, [SUBJECT])
    raw = Stored(stores, "gradient", every[-1:], [FIRST])
    linear = plain_card(card, "linear", layers=tuple(layers), places=(SUBJECT,), reference=())
    reader = Reader(decoder, linear, card.seeds[0])
    pairs = zip(blocks(own, rows), blocks(raw, rows), strict=True)
    fit_map(reader, ((torch.from_numpy(there), torch.from_numpy(read)[:, 0]) for there, read in pairs))
    return reader, replace(data, gradient=own, layers=layers, places=(SUBJECT,))
