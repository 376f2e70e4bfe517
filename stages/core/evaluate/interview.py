"""The interview: all questions to the model under study and to its peers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from ..data.facts import World
from ..data.gathering import Gathered
from ..data.questions import Question
from ..reader.injection import Slots
from ..reader.reader import Reader
from .answers import GROUPS, asked
from .asking import written
from .baselines import nearest_entities
from .cases import COUNTERFACTUAL, Questions, picked
from .edits import edit_scores, step_scores
from .knowledge import about, answered, dealt, looked_up, readings, with_marks, with_own
from .peers import own_cases, own_slots
from .section import Evaluation

PER_TARGET = 2
"""Gradients of each target that are asked about."""


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
        with torch.no_grad():
            return reader.read(torch.from_numpy(data.gradient[self.cases["row"].to_numpy()]))

    def of_main(self, reader: Reader, slots: Slots) -> tuple[pl.DataFrame, dict[str, Any]]:
        """The answers of the model under study (ANSWERS): to the sets of questions, and from its own knowledge.

        Beside them, where edits are asked for, the scores of `edit_scores`, with slots freed, and of `step_scores`.
        """
        questions = asked(reader, self.cases, slots, self.questions, self.world, self.how)
        rows = self.rows(reader, self.cases)
        said, answers = self.from_knowledge(reader, self.cases, rows, slots, "main")
        edits = {}
        if self.how.edits:
            freed = reader.freed(slots, said["moved_to"], said["moved_from"])
            nearest = nearest_entities(reader, slots, self.world.lexicon)["moved_to"].to_list()
            names = {"report": said["moved_to"].to_list(), "nearest": nearest}
            edits = {
                "edits": edit_scores(reader, rows, freed, self.world, self.how),
                "after_step": step_scores(reader, self.cases, names, self.world, self.how),
            }
        return pl.concat([questions, answers]), edits

    def of_peer(self, reader: Reader, slots: Slots, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """A peer's reports on its own gradients (REPORTS), and its answers (ANSWERS).

        Beside those from its own gradients: foreign, with `slots`, those of the model under study.
        """
        cases = own_cases(reader, self.cases, self.world, self.how.report_tokens)
        reports, answers = self.from_knowledge(reader, cases, self.rows(reader, cases), own_slots(reader, cases), name)
        return reports, pl.concat([answers, self.of_foreign(reader, slots, name)])

    def of_foreign(self, reader: Reader, slots: Slots, name: str) -> pl.DataFrame:
        """The answers of another model (ANSWERS) to what the gradients of the model under study put into `slots`."""
        return answered(reader, self.rows(reader, self.cases), "foreign", slots, self.how.report_tokens, name)

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
