"""All domains' rows in one table, with their gradients: what the gathering stages (projector, evaluation) work on.

The list of domains comes from params.yaml, never from a folder, so that a removed domain leaves no trace. Gradients and
activations stay in their stores: rows of them are read when they are asked for, in order or in shuffled batches.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Integer

from ..run.errors import InputError
from ..run.files import read_json
from ..run.seeds import keyed_rng
from .gradient_store import SHARDED, Store, open_store
from .places import FIRST, SUBJECT
from .tables import LABELS, PROMPTS, ROW, VIRTUAL_STEP, Schema, read_table

BLOCK_ROWS = 512
"""Rows read together where all are gone through, whatever the size of the stores' shards: the sums stay the same."""
HELD_BLOCKS = 16
"""Blocks of a shuffled order that are in memory at a time: 8 192 rows."""
LABELLED = ("label_domain", "label_moved_to", "label_moved_from")
TAUGHT = ("domain", "kind", "target", "answer", "split", "held_out", *LABELLED)
"""The columns that a projector's training reads."""
MODEL = Path("data/model/model.json")
SAME = ("model", "commit", "hook_point", "loss", "sign")
"""Attributes that the stores of all domains share."""

Table = TypeVar("Table", pl.DataFrame, pl.LazyFrame)


class Stored:
    """One array (`gradient` or `activation`) of several stores, one store's rows after another's."""

    def __init__(
        self, stores: Sequence[Store], name: str, layers: Sequence[int], places: Sequence[str] = (FIRST,)
    ) -> None:
        """`layers`, `places`: those that are wanted, by number and by name; every store must have them."""
        self.stores, self.name, self.places = stores, name, places
        self.layers = [[store.attributes["layers"].index(layer) for layer in layers] for store in stores]
        self.starts = np.cumsum([0, *map(len, stores)])
        self.shape = (int(self.starts[-1]), len(places) * len(layers), stores[0].arrays[name].shape[-1])

    def __getitem__(self, rows: Integer[np.ndarray, " n"], /) -> Float[np.ndarray, "n vector d_model"]:
        """These rows, in the order given, and no others; all layers of the first place, then those of the next.

        Raises:
            InputError: a shard can't be read, or a row is NaN or infinite; names the store and the row.
        """
        found = np.empty((len(rows), *self.shape[1:]), np.float32)
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], self.starts)
        for number, (store, layers) in enumerate(zip(self.stores, self.layers, strict=True)):
            own = order[ends[number] : ends[number + 1]]
            if len(own):
                values = store.read(self.name, rows[own] - self.starts[number], self.places)
                found[own] = values[:, :, layers].reshape(len(own), *self.shape[1:])
        return found


Vectors = Stored | Float[np.ndarray, "_ _ _"]
"""Vectors by row number: rows of stores, read when they are asked for, or an array."""


@dataclass(frozen=True)
class Gathered:
    """What is gathered.

    `rows`: the prompts table of all domains with `row` (index into `gradient`) and label_* columns (null: no label).
    `gradient` and `activation` have a vector for each of the `layers` at each of the `places`, place by place.
    """

    rows: pl.DataFrame
    gradient: Vectors
    activation: Vectors
    layers: list[int]
    places: tuple[str, ...] = (FIRST,)

    def corrections(self) -> "Gathered":
        """Without the rows of people's own data, which no score is about: their completions are no entities."""
        return replace(self, rows=self.rows.filter(pl.col("kind") != ROW))


def gather(
    domains: Sequence[str],
    layers: Sequence[int],
    columns: Sequence[str] | None = None,
    places: Sequence[str] = (FIRST,),
) -> Gathered:
    """Reads prompts and labels, and opens the gradients (of these layers, at these places), of the domains.

    `columns`: those of the table that are kept, as categories, which take 4 bytes a row each; None: all, as text.
    Rows that are about no subject are left out where that is the only place.

    Raises:
        InputError: a table or store is missing, broken or of other prompts, a store is of another model than
            data/model, or a layer or place is not in the stores.
    """
    tables, stores = [], []
    for domain in domains:
        prompts = columns_of(Path("data/prompts") / f"{domain}.parquet", PROMPTS, columns, "")
        labels = columns_of(Path("data/labels") / f"{domain}.parquet", LABELS, columns, "label_")
        path = Path("data/gradients") / f"{domain}.zarr"
        stores.append(open_store(path, prompts["prompt_id"]))
        check_attributes(stores[-1], stores[0])
        for layer in layers:
            if layer not in (stored := stores[-1].attributes["layers"]):
                raise InputError(
                    f"params.yaml: projector.layers: found {layer}, {path} holds {stored}; add it to gradients.layers"
                )
        for place in places:
            if place not in (stored := stores[-1].attributes["places"]):
                raise InputError(f"{path}: places: found {stored}, wanted {place!r} too; add it to gradients.places")
        named = {name: f"label_{name}" for name in labels.columns if name != "prompt_id"}
        table = prompts.join(labels.rename(named), on="prompt_id", how="left", maintain_order="left")
        tables.append(table if columns is None else table.select(columns))
    rows = pl.concat(tables).with_row_index("row")
    gradient, activation = (Stored(stores, name, layers, places) for name in SHARDED)
    found = Gathered(rows, gradient, activation, list(layers), tuple(places))
    return found.corrections() if found.places == (SUBJECT,) else found


def continuations(domains: Sequence[str]) -> pl.DataFrame:
    """Columns prompt_id and continuation_before: what the model itself says after each prompt of these domains."""
    steps = [read_table(Path("data/virtual_step") / f"{domain}.parquet", VIRTUAL_STEP) for domain in domains]
    return pl.concat(steps).select("prompt_id", "continuation_before").unique("prompt_id", maintain_order=True)


def columns_of(path: Path, schema: Schema, columns: Sequence[str] | None, start: str) -> pl.DataFrame:
    """A table's prompt_id, and as categories the columns whose name, after `start`, is among `columns`; None: all."""
    if columns is None:
        return read_table(path, schema)
    names = [name for name in schema if f"{start}{name}" in columns]
    words = [read_table(path, {name: schema[name]}).cast(pl.Categorical) for name in names]  # one as text at a time
    return pl.concat([read_table(path, {"prompt_id": schema["prompt_id"]}), *words], how="horizontal")


def check_attributes(store: Store, first: Store) -> None:
    """Checks that a store was made of data/model, and in the way that the first was made.

    Raises:
        InputError: it was not; names the attribute and what both hold.
    """
    card = read_json(MODEL)
    same = {name: first.attributes.get(name) for name in SAME}
    for other, wanted in ((MODEL, {"model": card["id"], "commit": card["commit"]}), (first.path, same)):
        for name, value in wanted.items():
            if (found := store.attributes.get(name)) != value:
                raise InputError(
                    f"{store.path}: {name}: found {found!r}, wanted {value!r} as in {other}: the store is of another "
                    "run; run dvc repro"
                )


def blocks(vectors: Vectors, rows: Integer[np.ndarray, " n"]) -> Iterator[Float[np.ndarray, "_ layer d_model"]]:
    """These rows, BLOCK_ROWS at a time."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield vectors[rows[start : start + BLOCK_ROWS]]


Window = tuple[Int[np.ndarray, " block"], Int[np.ndarray, " _"]]


class Shuffled:
    """Batches of rows of vectors, such as gradients, in an order that is shuffled anew each epoch.

    Blocks of BLOCK_ROWS rows come in a random order; HELD_BLOCKS of them are held in memory at a time, and their rows
    come in a random order too. Up to HELD_BLOCKS blocks in all, that is a shuffle of all rows. The order is keyed on
    the seed, a name and the epoch, and knows nothing of the stores' shards.
    """

    def __init__(self, rows: Integer[np.ndarray, " n"], source: Vectors, seed: int) -> None:
        """`rows`: row numbers of the vectors in `source`; everything else here counts from 0 to len(rows)."""
        self.rows, self.source, self.seed = rows, source, seed
        self.blocks = -(-len(rows) // BLOCK_ROWS)
        self.epoch: tuple[tuple[str, int], list[Window]] | None = None
        self.slot = np.full(self.blocks, -1)
        held = min(self.blocks, HELD_BLOCKS) * BLOCK_ROWS
        self.held = np.empty((held, *source.shape[1:]), np.float32)

    def batch(self, name: str, step: int, size: int) -> Iterator[Int[np.ndarray, " _"]]:
        """The rows of batch `step` of the order `name`, in parts.

        A batch has more than one part where an epoch or the blocks held end within it. The same for the same arguments,
        whatever was drawn before. `vectors` is to be asked for a part's rows before the next part is.
        """
        position, end = step * size, (step + 1) * size
        while position < end:
            epoch, start = divmod(position, len(self.rows))
            for blocks, rows in self.windows(name, epoch):
                if start < len(rows):
                    self.hold(blocks)
                    taken = rows[start : start + end - position]
                    yield taken
                    position += len(taken)
                    break
                start -= len(rows)

    def vectors(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n layer d_model"]:
        """The vectors of rows in memory: those of a part of a batch, and of the blocks that they stand in."""
        return self.held[self.slot[rows // BLOCK_ROWS] * BLOCK_ROWS + rows % BLOCK_ROWS]

    def windows(self, name: str, epoch: int) -> list[Window]:
        """The epoch's order: blocks that are held together, and their rows."""
        if self.epoch is None or self.epoch[0] != (name, epoch):
            rng = keyed_rng(self.seed, "order", name, epoch)
            order, windows = rng.permutation(self.blocks), []
            for start in range(0, self.blocks, HELD_BLOCKS):
                blocks = np.sort(order[start : start + HELD_BLOCKS])
                rows = (blocks[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
                windows.append((blocks, rng.permutation(rows[rows < len(self.rows)]).astype(np.int32)))
            self.epoch = (name, epoch), windows
        return self.epoch[1]

    def hold(self, blocks: Int[np.ndarray, " block"]) -> None:
        """Reads those of the blocks that aren't in memory, in place of others."""
        taken = np.isin(np.arange(self.blocks), blocks) & (self.slot >= 0)
        free = iter(np.setdiff1d(np.arange(min(self.blocks, HELD_BLOCKS)), self.slot[taken]))
        for block in blocks[self.slot[blocks] < 0]:
            slot = next(free)
            self.slot[self.slot == slot] = -1
            rows = self.rows[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            self.held[slot * BLOCK_ROWS :][: len(rows)] = self.source[rows]
            self.slot[block] = slot


@dataclass(frozen=True)
class Means:
    """Mean vectors: of some groups of rows by name, and of all rows."""

    by_name: dict[str, Float[np.ndarray, "layer d_model"]]
    overall: Float[np.ndarray, "layer d_model"]

    @classmethod
    def of(cls, vectors: Vectors, rows: pl.DataFrame, wanted: Collection[str]) -> "Means":
        """Over `rows` (columns row and answer), grouped by answer; `wanted`: the answers that are asked for."""
        names = sorted(set(rows["answer"]) & set(wanted))
        numbers = {name: number for number, name in enumerate(names)}
        group = np.array([numbers.get(name, -1) for name in rows["answer"]], dtype=int)
        sums, overall = np.zeros((len(names), *vectors.shape[1:])), np.zeros(vectors.shape[1:])
        for number, values in enumerate(blocks(vectors, rows["row"].to_numpy())):
            own = group[number * BLOCK_ROWS :][: len(values)]
            np.add.at(sums, own[own >= 0], values[own >= 0])
            overall += values.sum(0, dtype=np.float64)
        counts = np.bincount(group[group >= 0], minlength=len(names))
        means = (sums / counts[:, None, None]).astype(np.float32)
        return cls(dict(zip(names, means, strict=True)), (overall / max(len(rows), 1)).astype(np.float32))

    def moves(self, rows: pl.DataFrame) -> Float[np.ndarray, "row layer d_model"]:
        """Steering vectors: each row's target's mean minus its answer's; the mean of all stands for a missing one."""
        to, away = ([self.by_name.get(name, self.overall) for name in rows[side]] for side in ("target", "answer"))
        return np.stack(to) - np.stack(away)


def usable() -> pl.Expr:
    """Rows whose label names a move between two entities."""
    to, away = pl.col("label_moved_to"), pl.col("label_moved_from")
    return (to != "") & (away != "") & (to != away)


def taught(rows: Table, split: str) -> Table:
    """The rows of a split that a projector is taught from: a usable label, nothing held out.

    Neither is a held-out name in the label, which may be wrong.
    """
    out = list(held_out_names(rows))
    named = pl.col("label_moved_to").is_in(out) | pl.col("label_moved_from").is_in(out)
    return rows.filter((pl.col("split") == split) & (pl.col("held_out") == "none") & usable() & ~named)


def held_out_names(rows: pl.DataFrame | pl.LazyFrame) -> set[str]:
    """The names that are held out, as targets or as answers: no training report may hold one."""
    reasons = {"target": ("target", "kind"), "answer": ("answer", "kind")}
    parts = [
        rows.lazy().filter(pl.col("held_out").is_in(why)).select(name=pl.col(column).cast(pl.String))
        for column, why in reasons.items()
    ]
    return set(pl.concat(parts).unique().collect()["name"].drop_nulls())


def hosts(domains: Iterable[str], split: str) -> dict[str, pl.Series]:
    """The distinct prompts of a split's corrections with nothing held out, by domain, read from the tables."""
    found = {}
    columns = {name: PROMPTS[name] for name in ("prompt", "kind", "split", "held_out")}
    for domain in domains:
        table = read_table(Path("data/prompts") / f"{domain}.parquet", columns)
        seen = table.filter(pl.col("kind") != ROW, split=split, held_out="none")
        if len(seen):
            found[domain] = seen["prompt"].unique(maintain_order=True)
    return found
