"""The gradient store: a Zarr v3 group of sharded arrays, one row a prompt, in the order of the prompts table.

Gradients and activations are [sample, place, layer, d_model]; a place that a row's target is too short for holds zeros.
Their shards hold SHARD_BYTES or less, before compression; what has a few bytes a row is one shard whatever its size, to
have few files. Shards are written whole by one writer; inner chunks hold one place of CHUNK_ROWS rows. Gradients and
activations are rounded to `keep_bits` mantissa bits before writing (numcodecs.BitRound) and stored as plain float32
with Blosc(zstd), so that any Zarr v3 reader opens them. The fill value is NaN: a row that was never written can't be
taken for data. The attribute `shards` holds the SHA-256 of every shard file of gradients and activations, so that a
file that was copied from another run's store is refused.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
from jaxtyping import Float, Int
from numcodecs import BitRound
from zarr.codecs import BloscCodec
from zarr.errors import BaseZarrError

from ..run.errors import InputError, one_line
from ..run.files import file_hash, replacing

SHARD_BYTES = 128 * 2**20
CHUNK_ROWS = 64
ID_BYTES = 16
ID_ROWS = 4096
"""Identifiers that are compared together: a million of them as Python's strings would take 65 MB."""
ARRAYS = ("gradient", "activation", "target_logprob", "answer_logprob", "top_token")
"""What is stored of each prompt, beside its prompt_id."""
SHARDED = ("gradient", "activation")
"""The arrays of as many shards as it takes."""
FINITE = ("gradient", "activation", "target_logprob")
"""The arrays that hold no NaN."""


def shard_rows(vectors: int, d_model: int) -> int:
    """Rows in a shard of the gradient array, of so many vectors each: a multiple of CHUNK_ROWS."""
    return max(1, SHARD_BYTES // (4 * vectors * d_model * CHUNK_ROWS)) * CHUNK_ROWS


def shards(samples: int, vectors: int, d_model: int) -> Iterator[slice]:
    """The rows of each shard, in order: the unit of work, of resuming and of writing."""
    rows = shard_rows(vectors, d_model)
    for start in range(0, samples, rows):
        yield slice(start, min(start + rows, samples))


def rounded(values: Float[np.ndarray, "*shape"], keep_bits: int) -> Float[np.ndarray, "*shape"]:
    """Float32 with all but `keep_bits` mantissa bits rounded away (7 is bfloat16's precision)."""
    codec = BitRound(keepbits=keep_bits)
    return np.asarray(codec.decode(codec.encode(np.ascontiguousarray(values, dtype=np.float32)))).reshape(values.shape)


def write_store(
    path: Path,
    pieces: Sequence[Mapping[str, np.ndarray]],
    prompt_ids: Sequence[str],
    keep_bits: int,
    attributes: Mapping[str, Any],
) -> None:
    """Writes a store from pieces, one a shard, in order; it appears whole or not at all.

    A piece holds gradient, activation, target_logprob, answer_logprob and top_token of its rows. The attributes are
    written in sorted order, so that the same content gives the same bytes.

    Raises:
        InputError: a gradient or activation is NaN or infinite; names the row's prompt_id.
    """
    samples = len(prompt_ids)
    _, places, layers, d_model = pieces[0]["gradient"].shape
    parts = list(shards(samples, places * layers, d_model))
    for part, piece in zip(parts, pieces, strict=True):
        check_finite(path, piece, prompt_ids[part])
    all_rows = math.ceil(samples / CHUNK_ROWS) * CHUNK_ROWS
    some_rows = min(shard_rows(places * layers, d_model), all_rows)
    blosc = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")
    with replacing(path) as partial:
        group = zarr.open_group(partial, mode="w-", zarr_format=3)

        def array(
            name: str, dtype: str, fill: int | float, shard: tuple[int, ...], chunk: tuple[int, ...] = ()
        ) -> zarr.Array[Any]:
            shape, chunks = (samples, *shard[1:]), (CHUNK_ROWS, *chunk)
            return group.create_array(
                name, shape=shape, dtype=dtype, chunks=chunks, shards=shard, fill_value=fill, compressors=blosc
            )

        for name in SHARDED:
            target = array(name, "float32", math.nan, (some_rows, places, layers, d_model), (1, layers, d_model))
            for part, piece in zip(parts, pieces, strict=True):
                target[part] = rounded(piece[name], keep_bits)
        for name, dtype, fill in (
            ("target_logprob", "float32", math.nan),
            ("answer_logprob", "float32", math.nan),
            ("top_token", "int64", -1),
        ):
            array(name, dtype, fill, (all_rows,))[:] = np.concatenate([piece[name] for piece in pieces])
        ids = np.frombuffer("".join(prompt_ids).encode("ascii"), np.uint8).reshape(-1, ID_BYTES)
        array("prompt_id", "uint8", 0, (all_rows, ID_BYTES), (ID_BYTES,))[:] = ids
        hashes = {name: [file_hash(shard_file(partial, name, at)) for at in range(len(parts))] for name in SHARDED}
        written = {**attributes, "samples": samples, "keep_bits": keep_bits, "shards": hashes}
        group.update_attributes(dict(sorted(written.items())))


def shard_file(path: Path, name: str, number: int) -> Path:
    """The file of one shard of an array [sample, place, layer, d_model]."""
    return path / name / "c" / str(number) / "0" / "0" / "0"


def check_finite(path: Path, piece: Mapping[str, np.ndarray], prompt_ids: Sequence[str]) -> None:
    """Refuses, with InputError, rows whose gradient, activation or target log-probability is NaN or infinite."""
    for name in (name for name in FINITE if name in piece):
        bad = ~np.isfinite(piece[name]).reshape(len(prompt_ids), -1).all(1)
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f"{path}: {name} of prompt {prompt_ids[row]}: NaN or infinite, wanted numbers; "
                f"{int(bad.sum())} such rows"
            )


@dataclass(frozen=True)
class Store:
    """An open store that belongs to known prompts. Its numbers are read, and checked, when they are asked for."""

    path: Path
    arrays: dict[str, zarr.Array[Any]]
    attributes: dict[str, Any]
    known: set[Path] = field(default_factory=set)
    """The shard files that were seen to be those that the store was written with."""

    def __len__(self) -> int:
        return self.attributes["samples"]

    def read(
        self, name: str, rows: slice | Int[np.ndarray, " n"] = slice(None), places: Sequence[str] | None = None
    ) -> np.ndarray:
        """Rows of one array: a slice, or row numbers in ascending order, for which only the chunks with them are read.

        `places`: of gradients and activations, those that are read, in this order; None: all.

        Raises:
            InputError: a shard can't be read or is of another store, or a row is NaN or infinite (`answer_logprob` may
                be); names the shard or the row.
        """
        array = self.arrays[name]
        try:
            if name in SHARDED:
                stored = self.attributes["places"]
                at = [stored.index(place) for place in places or stored]
                values = np.stack([array.oindex[rows, place] for place in at], 1)
            else:
                values = np.asarray(array.oindex[rows])
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"{self.path}: {name}: a shard can't be read ({one_line(error)}): the store was cut short; "
                "delete it and run dvc repro"
            ) from error
        if name in FINITE and not np.isfinite(values).all():
            check_finite(self.path, {name: values}, self.prompt_ids(rows))
        if name in SHARDED:
            self.check_shards(name, rows)
        return values

    def check_shards(self, name: str, rows: slice | Int[np.ndarray, " n"]) -> None:
        """Checks, once each, that the shard files with these rows are those that the store was written with.

        Raises:
            InputError: one is not.
        """
        shards = self.arrays[name].shards
        assert shards is not None
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        for number in np.unique(wanted // shards[0]).tolist():
            file = shard_file(self.path, name, number)
            if file not in self.known and file_hash(file) != self.attributes["shards"][name][number]:
                raise InputError(
                    f"{file}: not the shard that its store was written with, but one of another run; delete "
                    f"{self.path} and run dvc repro"
                )
            self.known.add(file)

    def prompt_ids(self, rows: slice | Int[np.ndarray, " n"] = slice(None)) -> list[str]:
        """The prompt_ids of these rows."""
        return [bytes(row).decode("ascii", "replace") for row in self.read("prompt_id", rows)]


def open_store(path: Path, prompt_ids: Sequence[str] | pl.Series) -> Store:
    """Opens a store and checks that it is complete and is that of these prompts, in this order.

    Raises:
        InputError: the store is missing, cut short or unreadable, or belongs to other prompts.
    """
    advice = "delete it and run dvc repro"
    if not path.is_dir():
        raise InputError(f"{path}: no such store; run the stage that writes it (dvc repro)")
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        found = {name: group[name] for name in (*ARRAYS, "prompt_id")}
        attributes = dict(group.attrs)
    except (BaseZarrError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{path}: not a whole gradient store ({what}); {advice}") from error
    store = Store(path, {name: whole(path, name, array) for name, array in found.items()}, attributes)
    for axis, key in ((1, "places"), (2, "layers")):
        names = attributes.get(key)
        for name in SHARDED:
            if not isinstance(names, list) or len(names) != store.arrays[name].shape[axis]:
                raise InputError(f"{path}: {key}: found {names}, wanted the {key} of its arrays; {advice}")
    ids = store.read("prompt_id").reshape(-1).view(f"S{ID_BYTES}")
    parts = range(0, max(len(ids), len(prompt_ids)), ID_ROWS)
    if any(not np.array_equal(ids[at : at + ID_ROWS], np.array(prompt_ids[at : at + ID_ROWS], "S")) for at in parts):
        raise InputError(
            f"{path}: its {len(ids)} rows are not the {len(prompt_ids)} prompts of the table before it; run dvc repro"
        )
    for name, array in store.arrays.items():
        if array.shape[0] != len(ids):
            raise InputError(f"{path}: {name}: found {array.shape[0]} rows, its prompts are {len(ids)}; {advice}")
    return store


def whole(path: Path, name: str, array: zarr.Array[Any] | zarr.Group) -> zarr.Array[Any]:
    """The array, once every shard file was seen to be there.

    Raises:
        InputError: it's no sharded array, or a shard is missing.
    """
    if not isinstance(array, zarr.Array) or array.shards is None:
        raise InputError(f"{path}: {name}: wanted a sharded array; delete it and run dvc repro")
    wanted = math.prod(math.ceil(size / shard) for size, shard in zip(array.shape, array.shards, strict=True))
    found = array.nchunks_initialized * math.prod(array.chunks) // math.prod(array.shards)
    if found != wanted:
        raise InputError(
            f"{path}: {name}: found {found} of {wanted} shards: the store was cut short; delete it and run dvc repro"
        )
    return array
