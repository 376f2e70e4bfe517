"""What a projector learns from, in batches: labelled gradients, or vectors made of the model's own words.

Every row draws a host prompt of another domain than the gradient's (or none), and perhaps a sign flip (report with the
two entities swapped). In a share of the rows a sham stands in the gradient's place, to be reported as no pressure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..data import grammar
from ..data.gathering import BLOCK_ROWS, Gathered, Shuffled, Vectors, blocks, hosts, taught
from ..data.summaries import in_held_out_form
from ..run.errors import InputError
from ..run.seeds import keyed_rng
from .reader import Reader
from .section import Projector
from .shams import TRAINED, draw_sham
from .vocabulary import Tokens, final_gain

NOISE, SHARES = 1.2, (0.4, 1.0)
"""Most noise, and how much of the other word is taken away: fractions of the word's own norm."""
BLOCKS = 4


@dataclass(frozen=True)
class Draws:
    """One batch: gradients, the report of each, its host, and the names moved to and from (None: a sham).

    `whole`: the reports are not only their beginnings.
    """

    gradients: Float[Tensor, "batch vector d_model"]
    reports: list[str]
    hosts: list[str | None]
    names: list[tuple[str, str] | None]
    whole: bool = True


class Curriculum:
    """Draws batches: the batch of (split, step) is always the same. An epoch has each lesson once."""

    def __init__(
        self,
        gradients: Vectors,
        lessons: pl.DataFrame,
        hosts: Mapping[str, Sequence[str] | pl.Series],
        settings: Projector,
        seed: int,
    ) -> None:
        """`gradients`: by row; read as they are drawn. `hosts`: prompts by domain.

        `lessons`: columns row, and what is to be reported of its gradient: domain, moved_to, moved_from. Where
        `settings.differences` are asked for, prompt too; where `settings.reports` is teacher, told: the report.
        """
        self.gradients, self.lessons, self.hosts, self.settings, self.seed = gradients, lessons, hosts, settings, seed
        self.rows = lessons["row"].to_numpy()
        self.shuffled = Shuffled(self.rows, gradients, seed)
        self.alike = None if not settings.differences else runs(lessons["prompt"])

    def blocks(self) -> Iterator[Float[Tensor, "_ layer d_model"]]:
        """All gradients, some at a time."""
        return map(torch.from_numpy, blocks(self.gradients, self.rows))

    def draw(self, split: str, step: int, size: int, reported: int) -> Draws:
        """A batch of `size` rows, the first `reported` of which may be shams."""
        rng, pairs = keyed_rng(self.seed, split, step), keyed_rng(self.seed, split, step, "differences")
        parts = []
        for rows in self.shuffled.batch(split, step, size):
            others, vectors = self.others(pairs, rows), self.shuffled.vectors(rows)
            taken = others != rows
            vectors[taken] -= self.shuffled.vectors(others[taken])
            parts.append((vectors, rows, others))
        vectors, chosen, against = map(np.concatenate, zip(*parts, strict=True))
        gradients, picked, minus = torch.from_numpy(vectors), self.lessons[chosen], self.lessons[against]
        away = pl.select(pl.when(pl.Series(chosen == against)).then(picked["moved_from"]).otherwise(minus["moved_to"]))
        picked = picked.with_columns(moved_from=away.to_series())
        flips, shams, bare = rng.random((3, size)) < np.array([[self.settings.flips], [self.settings.shams], [0.1]])
        reports, hosts, names = [], [], []
        free = ["told"] * (self.settings.reports == "teacher")
        told = picked.select("domain", "moved_to", "moved_from", *free).iter_rows()
        for row, (domain, to, away, *text) in enumerate(told):
            hosts.append(None if bare[row] else self.host(rng, domain))
            if shams[row] and row < reported:
                gradients[row] = torch.from_numpy(draw_sham(TRAINED, rng, gradients[row].numpy()))
                reports.append(grammar.NO_PRESSURE)
                names.append(None)
                continue
            if flips[row]:
                gradients[row] *= -1
                to, away = away, to
            reports.append(text[0] if text else grammar.report(domain, to, away))
            names.append((to, away))
        return Draws(gradients, reports, hosts, names)

    def others(self, rng: np.random.Generator, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """For a share `differences` of the rows another one of the same prompt and block; the row itself for the rest.

        It is the row itself too where the other is toward the same name.
        """
        if self.alike is None:
            return rows
        first, end = self.alike
        drawn = rng.integers(first[rows], end[rows]).astype(rows.dtype)
        told = self.lessons["moved_to"]
        other = (told[drawn] != told[rows]).to_numpy() & (rng.random(len(rows)) < self.settings.differences)
        return np.where(other, drawn, rows)

    def host(self, rng: np.random.Generator, domain: str) -> str | None:
        """A prompt of another domain."""
        others = [name for name in self.hosts if name != domain]
        if not others:
            return None
        pool = self.hosts[others[rng.integers(len(others))]]
        return pool[int(rng.integers(len(pool)))]


def runs(prompts: pl.Series) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Of each row where the rows with its prompt begin that stand next to it in its block, and where they end."""
    blocks = pl.Series(np.arange(len(prompts)) // BLOCK_ROWS)
    run = pl.select(pl.struct(prompts, blocks).rle_id()).to_series().to_numpy()
    starts = np.searchsorted(run, np.arange(run[-1] + 2))
    return starts[run], starts[run + 1]


class Words:
    """Draws batches: the batch of (split, step) is always the same. A word stands in a slot a token.

    A gradient is the negative of what an update after the last block moves toward: the word's direction in the head,
    times the final norm's gain, minus a share (with `settings.flips` one over that share) of another's, in noise of any
    direction. All layers get the same. The report is its beginning alone, up to the word.
    """

    def __init__(
        self,
        reader: Reader,
        names: Iterable[str],
        hosts: Mapping[str, Sequence[str] | pl.Series],
        settings: Projector,
    ) -> None:
        """`names`: names none of whose tokens is taught. `hosts`: prompts by domain, to stand in front.

        Raises:
            InputError: less than two tokens of letters are left.
        """
        self.decoder, self.card, self.settings, self.seed = reader.decoder, reader.card, settings, reader.seed
        self.hosts, self.directions = list(hosts.values()), Tokens(reader.decoder, output=True)
        self.gain = final_gain(reader.decoder)
        closed = {token for name in names for token in reader.decoder.continuation(name)}
        left = [token for token in range(len(self.directions)) if token not in closed]
        self.tokens = [token for token in left if self.decoder.text([token]).isalpha()]
        if len(self.tokens) < 2:
            raise InputError(
                f"params.yaml: projector.learns_from: found {len(self.tokens)} words of the model's vocabulary that "
                "share no token with a name of the prompts, wanted 2 or more: use labels"
            )

    def blocks(self) -> Iterator[Float[Tensor, "_ vector d_model"]]:
        """Some gradients, for whitening and gate."""
        return (self.draw("blocks", step, BLOCK_ROWS, 0).gradients for step in range(BLOCKS))

    def draw(self, split: str, step: int, size: int, reported: int) -> Draws:
        """A batch of `size` rows."""
        rng, places = keyed_rng(self.seed, "words", split, step), len(self.card.places)
        gradients, reports, hosts, names = torch.zeros(size, places, self.card.d_model), [], [], []
        for row in range(size):
            text = self.decoder.text(self.some(rng, int(rng.integers(1, places + 1))))
            drawn = self.decoder.continuation(text)[:places]
            others, share = self.some(rng, len(drawn)), rng.uniform(*SHARES)
            share = 1 / share if rng.random() < self.settings.flips else share
            noise = F.normalize(torch.from_numpy(rng.standard_normal((len(drawn), self.card.d_model), np.float32)))
            felt = self.moved(drawn) - share * self.moved(others) + rng.uniform(0, NOISE) * noise
            gradients[row, : len(drawn)] = -felt
            to, away = self.decoder.text(drawn), self.decoder.text(others)
            reports.append(f"{grammar.PARTS[0]} {to}")
            names.append((to, away))
            pool = self.hosts[int(rng.integers(len(self.hosts)))]
            hosts.append(None if rng.random() < 0.1 else pool[int(rng.integers(len(pool)))])
        return Draws(gradients.repeat_interleave(len(self.card.layers), 1), reports, hosts, names, whole=False)

    def some(self, rng: np.random.Generator, count: int) -> list[int]:
        """So many of the tokens."""
        return [self.tokens[at] for at in rng.integers(len(self.tokens), size=count)]

    def moved(self, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
        """The unit vectors that raise these tokens' logits most after the last block."""
        return F.normalize(self.directions[torch.tensor(ids, device=self.decoder.device)] * self.gain, dim=-1).cpu()


Lessons = Curriculum | Words


def curriculum(data: Gathered, split: str, reader: Reader, settings: Projector) -> Lessons:
    """The curriculum of a split for a reader's seed."""
    others = hosts(data.rows["domain"].unique(maintain_order=True), split)
    if settings.learns_from == "words":
        names = {name for column in ("target", "answer") for name in data.corrections().rows[column].drop_nulls()}
        return Words(reader, names, others, settings)
    free = settings.reports == "teacher"
    summary = pl.col("label_summary").cast(pl.String) if free else pl.lit("")
    lessons = (
        taught(data.rows.lazy(), split)
        .filter(~in_held_out_form(summary))
        .select(
            "row",
            *(["prompt"] if settings.differences else []),
            *([summary.alias("told")] if free else []),
            domain="label_domain",
            moved_to="label_moved_to",
            moved_from="label_moved_from",
        )
        .collect()
    )
    if lessons.is_empty():
        raise InputError(
            f"projector.learns_from: {settings.learns_from}: found none in split {split!r} that name two, wanted "
            "some; look at the teacher's agreement (dvc metrics show), or read the model's reports"
        )
    return Curriculum(data.gradient, lessons, others, settings, reader.seed)
