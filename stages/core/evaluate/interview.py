"""The interview: who reads beside the model under study, and what all of them are asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from ..data.facts import World
from ..data.gathering import BLOCK_ROWS, Gathered, Stored, blocks
from ..data.places import FIRST, SUBJECT
from ..data.questions import Question
from ..model.decoder import Decoder
from ..model.opening import open_model
from ..model.section import Foreign, Peer
from ..reader.card import Card, plain_card
from ..reader.fitting import fit_map
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.vocabulary import embedding_norm
from .answers import (
    GROUPS,
    about,
    asked,
    dealt,
    entity,
    knowledge_scores,
    looked_up,
    readings,
    say,
    with_marks,
    with_own,
)
from .asking import own_gradients, written
from .baselines import nearest_entities
from .cases import COUNTERFACTUAL, SEEN, Questions, picked
from .edits import edit_scores
from .scores import by_words, real_groups, reference_scores, summary
from .section import Evaluation

PEERS = Path("data/peers")
PER_TARGET = 2
"""Gradients of each target that are asked about."""


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


def peers_of(card: Card, peers: Mapping[str, Peer | Foreign]) -> Iterator[tuple[str, Reader]]:
    """These peers, by name, opened one after another, each as `peer_reader`; a foreign one with its own slot token."""
    for name, peer in sorted(peers.items()):
        own = {"slot_token": peer.slot_token} if isinstance(peer, Foreign) else {}
        yield name, peer_reader(open_model(PEERS / name)[0], card.model_copy(update=own), name)


def peer_reader(decoder: Decoder, card: Card, name: str) -> Reader:
    """A reader of another model's raw update direction, which it asks about as `card` does."""
    own = {"d_model": decoder.d_model, "norm": embedding_norm(decoder), "model": name, "seeds": (0,)}
    return Reader(decoder, plain_card(card, "raw", layers=(decoder.n_layers - 1,), **own), 0)


def own_cases(reader: Reader, cases: pl.DataFrame, world: World, tokens: int) -> pl.DataFrame:
    """The cases with this model's own answer to each prompt; left out where that is no entity, or is the target."""
    entities = {name: list(relation.entities) for _, name, relation in world.relations}
    said = say(reader, cases["prompt"].to_list(), None, tokens)
    own = [entity(text, entities[name]) for text, name in zip(said, cases["relation"], strict=True)]
    found = cases.with_columns(answer=pl.Series(own, dtype=pl.String))
    return found.filter((pl.col("answer") != "") & (pl.col("answer") != pl.col("target")))


@dataclass(frozen=True)
class Interview:
    """What is asked of every model.

    Attributes:
        cases: gradients, each in front of a host of another domain, with their relation.
        trained: relations that slots were asked about in pretraining.
    """

    cases: pl.DataFrame
    world: World
    questions: dict[str, Question]
    trained: Sequence[str]
    how: Evaluation

    @classmethod
    def of(cls, questions: Questions, world: World, sets: dict[str, Question], trained: Sequence[str]) -> "Interview":
        """About test gradients of which nothing is held out, and of held-out targets and kinds; PER_TARGET a target.

        A target that answers nothing in the world, as a generator may write, is left out: nothing is known of it.
        """
        how, known = questions.settings, pl.col("target").is_in(list(world.lexicon))
        test = questions.test.filter(COUNTERFACTUAL & known & pl.col("held_out").is_in(list(GROUPS.values())))
        cases = questions.foreign_host(picked(test, PER_TARGET, how.seed, "interview", "target"))
        return cls(cases, world, sets, trained, how)

    def slots(self, reader: Reader, data: Gathered) -> Slots:
        """What the stored gradients of the cases put into a reader's slots."""
        return reader.read(torch.from_numpy(data.gradient[self.cases["row"].to_numpy()]))

    def of_main(self, reader: Reader, slots: Slots) -> tuple[pl.DataFrame, dict[str, Any]]:
        """The answers of the model under study (ANSWERS): to the sets of questions, and from its own knowledge.

        Beside them, where edits are asked for, the scores of `edit_scores`, with slots freed.
        """
        questions = asked(reader, self.cases, slots, self.questions, self.world, self.how)
        rows = self.rows(reader, self.cases)
        said, answers = self.from_knowledge(reader, self.cases, rows, slots, "main")
        edits = {}
        if self.how.edits:
            freed = reader.freed(slots, said["moved_to"], said["moved_from"])
            edits = {"edits": edit_scores(reader, rows, freed, self.world, self.how)}
        return pl.concat([questions, answers]), edits

    def of_peer(self, reader: Reader, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """A peer's reports on its own gradients (REPORTS), and its answers from these (ANSWERS)."""
        cases = own_cases(reader, self.cases, self.world, self.how.report_tokens)
        slots = reader.read(torch.from_numpy(own_gradients(reader, cases)))
        return self.from_knowledge(reader, cases, self.rows(reader, cases), slots, name)

    def rows(self, reader: Reader, cases: pl.DataFrame) -> pl.DataFrame:
        """The questions about these cases, with the reader's own answers."""
        return with_own(reader, about(self.world, cases, self.trained), self.how.report_tokens)

    def from_knowledge(
        self, reader: Reader, cases: pl.DataFrame, rows: pl.DataFrame, slots: Slots, model: str
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """A model's reports on these cases (REPORTS), and its answers to `rows` under every reading (ANSWERS).

        nearest: what the world's facts say of the entity nearest to what stands in the slots, with no model.
        """
        reports = written(reader, cases, (slots, None), model, self.how.report_tokens)
        slots = reader.sized(slots, reports["moved_to"])
        names = {name: reports[name].to_list() for name in ("moved_to", "moved_from")}
        shuffled = dealt(cases, self.world, self.how.seed)
        nearest = nearest_entities(reader, slots, self.world.lexicon)["moved_to"].to_list()
        return reports, pl.concat(
            [
                readings(reader, rows, slots, names, shuffled, self.how.report_tokens, model),
                with_marks(rows, "nearest", looked_up(rows, nearest, self.world), model),
            ]
        )

    def scores(
        self, reader: Reader, data: Gathered, slots: Slots, questions: Questions, foreign: Sequence[pl.DataFrame] = ()
    ) -> dict[str, Any]:
        """The groups of scores of the cases as a reader of `data` reads them, and `reference_scores`.

        `words`: see `by_words`; `knowledge`: see `knowledge_scores`, by reading. `slots`: see `slots`. `foreign`: what
        other models answer with these slots, under the name "real".
        """
        rows = self.rows(reader, self.cases)
        reports, answers = self.from_knowledge(reader, self.cases, rows, slots, "real")
        groups = {name: summary(part) for name, part in real_groups(reports).items() if len(part)}
        beside = reference_scores(data, questions.train, questions.rows, reports, reader, self.how.seed)
        knowledge = knowledge_scores(pl.concat([answers, *foreign]))["real"]
        return groups | beside | {"words": by_words(reports), "knowledge": knowledge}
