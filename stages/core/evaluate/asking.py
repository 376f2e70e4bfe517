"""Asking: the reports that the model writes under every condition, one piece a condition and reader."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import polars as pl

from ..data.gathering import Gathered, Means, blocks
from ..data.tables import write_table
from ..engine.gradients import gradients_of
from ..engine.samples import samples_of
from ..model.decoder import Decoder
from ..reader.reader import Reader
from ..reader.reports import answers_of
from ..reader.shams import Normal
from ..run.scratch import Scratch
from .cases import COUNTERFACTUAL, Questions
from .conditions import ALL, Condition, Filled, Pool, Vectors
from .fine_tuning import activation_moves
from .scores import scored
from .table import REPORTS


@dataclass(frozen=True)
class Piece:
    """The cases of one condition, asked of one reader."""

    condition: Condition
    cases: pl.DataFrame
    reader: Reader

    @property
    def file(self) -> str:
        """The name of its reports' file in the scratch folder."""
        return f"{self.condition.name}-{self.reader.seed}.parquet"


def pieces_of(questions: Questions, seeds: Sequence[Reader], bias: Reader) -> list[Piece]:
    """The pieces of all conditions that have cases; `seeds`, `bias`: the readers of all seeds, and the bias-only one.

    Where the projector has no part, all seeds would write the same, unless LoRA is a part of each: one is asked.
    """
    first = seeds[:1] if seeds[0].adapter is None else seeds
    who = {"seeds": seeds, "first seed": first, "bias only": [bias]}
    asked = [(condition, condition.cases(questions)) for condition in ALL]
    return [Piece(one, cases, reader) for one, cases in asked if len(cases) for reader in who[one.readers]]


class Asking:
    """Asks for the reports of pieces; computes what conditions share once, when it is first needed."""

    def __init__(self, data: Gathered, questions: Questions, decoder: Decoder) -> None:
        self.data, self.questions, self.decoder, self.settings = data, questions, decoder, questions.settings
        self.moved: dict[tuple[str, ...], Vectors] = {}

    @cached_property
    def training(self) -> tuple[Normal, Means]:
        """The distribution of training gradients, and the mean activations of training prompts by answer."""
        train, test = self.questions.train.filter(COUNTERFACTUAL), self.questions.test
        means = Means.of(self.data.activation, train, {*test["target"], *test["answer"]})
        return Normal(blocks(self.data.gradient, train["row"].to_numpy())), means

    def moves(self, cases: pl.DataFrame) -> Vectors:
        """How each case's activation moves when the model is fine-tuned on that case."""
        key = tuple(cases["prompt_id"])
        if key not in self.moved:
            self.moved[key] = activation_moves(self.decoder, samples_of(self.decoder, cases), self.data.layers)
        return self.moved[key]

    def toward(self, cases: pl.DataFrame) -> Vectors:
        """The gradients of the cases' own targets."""
        rows = cases.select("prompt_id").join(self.data.rows, on="prompt_id", maintain_order="left")
        rows = rows.with_columns(target=cases["target"], answer=pl.lit(None, pl.String))
        layers, places = self.data.layers, self.data.places
        return gradients_of(self.decoder, samples_of(self.decoder, rows, places), layers, places)[0]

    def vectors(self, piece: Piece) -> Vectors | None:
        """What the piece's reader reads in place of the gradients; None: nothing."""
        if piece.condition.read is None:
            return None
        at = piece.cases["row"].to_numpy()
        pool = Pool(
            piece.cases.rename({"gradient_domain": "domain"}),
            self.data.gradient[at],
            self.data.activation[at],
            self.settings.seed,
            *self.training,
            moves=partial(self.moves, piece.cases),
            toward=partial(self.toward, piece.cases),
        )
        return piece.condition.read(pool)

    def reports(self, piece: Piece) -> pl.DataFrame:
        """The piece's reports, marked (REPORTS)."""
        condition, cases, reader = piece.condition, piece.cases, piece.reader
        vectors = self.vectors(piece)
        filled = None if vectors is None else condition.fill(reader, vectors)
        if condition.swapped:
            cases = cases.rename({"target": "answer", "answer": "target"})
        return written(reader, cases, filled, condition.name, self.settings.report_tokens)

    def keep(self, pieces: Iterable[Piece], scratch: Scratch, advance: Callable[[int], None]) -> None:
        """Keeps the reports of each piece in `scratch` as soon as it is done."""
        for piece in pieces:
            scratch.piece(piece.file, lambda at, piece=piece: write_table(at, self.reports(piece), REPORTS))
            advance(len(piece.cases))


def own_gradients(reader: Reader, cases: pl.DataFrame) -> Vectors:
    """The gradients of the cases' targets through the reader's own model, at its layers and places."""
    samples = samples_of(reader.decoder, cases, reader.card.places)
    return gradients_of(reader.decoder, samples, reader.card.layers, reader.card.places)[0]


def written(reader: Reader, cases: pl.DataFrame, filled: Filled | None, condition: str, tokens: int) -> pl.DataFrame:
    """The reader's reports on the cases, of at most `tokens` tokens, marked (REPORTS); `filled` None: no injection."""
    slots, confidence = filled or (None, None)
    reports = answers_of(reader, cases["host"].to_list(), reader.card.question, slots, tokens)
    known = pl.lit(None) if confidence is None else pl.Series(confidence.cpu().numpy())
    cases = cases.with_columns(condition=pl.lit(condition), seed=pl.lit(reader.seed), confidence=known)
    return scored(cases, reports)
