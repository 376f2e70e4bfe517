"""The Zarr store: what is written reads back, any reader opens it, nothing broken or cut short is taken for data."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from stages.core.data.gradient_store import (
    ARRAYS,
    ID_BYTES,
    Store,
    open_store,
    rounded,
    shard_rows,
    shards,
    write_store,
)
from stages.core.run.files import content_hash, file_hash

ROWS, PLACES, LAYERS, WIDTH, BITS = 150, 3, 2, 8, 10
IDS = [f"{number:0{ID_BYTES}x}" for number in range(ROWS)]
ATTRIBUTES = {"model": "tiny", "places": ["target_1", "target_2", "subject"], "layers": [0, 1], "sign": "gradient"}


def piece(start: int = 0, stop: int = ROWS) -> dict[str, np.ndarray]:
    """Rows of a made-up store; the answer is unknown in every third."""
    rng = np.random.default_rng(0)
    whole = {
        "gradient": rng.standard_normal((ROWS, PLACES, LAYERS, WIDTH)).astype(np.float32) * 1e-3,
        "activation": rng.standard_normal((ROWS, PLACES, LAYERS, WIDTH)).astype(np.float32),
        "target_logprob": -rng.random(ROWS).astype(np.float32),
        "answer_logprob": np.where(np.arange(ROWS) % 3, -1, np.nan).astype(np.float32),
        "top_token": rng.integers(0, 50, ROWS),
    }
    return {name: values[start:stop] for name, values in whole.items()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "music.zarr"
    write_store(path, [piece()], IDS, BITS, ATTRIBUTES)
    return path


def read_all(store: Store) -> None:
    for name in ARRAYS:
        store.read(name)


def test_it_reads_back_within_the_rounding_that_was_asked_for(store: Path):
    found, wanted = open_store(store, IDS), piece()
    assert found.prompt_ids() == IDS
    hashes = {name: [file_hash(store / name / "c/0/0/0/0")] for name in ("gradient", "activation")}
    assert found.attributes == ATTRIBUTES | {"samples": ROWS, "keep_bits": BITS, "shards": hashes}
    for name in ("gradient", "activation"):
        assert np.abs(found.read(name) / wanted[name] - 1).max() <= 2 ** -(BITS + 1)
    for name in ("target_logprob", "answer_logprob", "top_token"):
        np.testing.assert_array_equal(found.read(name), wanted[name])


@pytest.mark.parametrize("bits", [1, 7, 23])
def test_rounding_keeps_that_many_bits(bits: int):
    values = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    found = rounded(values, bits)
    assert np.abs(found / values - 1).max() <= (0 if bits == 23 else 2 ** -(bits + 1))
    np.testing.assert_array_equal(rounded(found, bits), found)
    assert not (found.view(np.uint32) << np.uint32(32 - (23 - bits))).any() or bits == 23


def test_plain_zarr_opens_it(store: Path):
    group = zarr.open_group(store, mode="r")
    gradient = group["gradient"]
    assert isinstance(gradient, zarr.Array) and gradient.metadata.zarr_format == 3
    assert (
        gradient.shape == (ROWS, PLACES, LAYERS, WIDTH)
        and gradient.dtype == np.float32
        and np.isnan(gradient.fill_value)
    )
    np.testing.assert_array_equal(np.asarray(gradient[:]), open_store(store, IDS).read("gradient"))
    ids = group["prompt_id"]
    assert isinstance(ids, zarr.Array)
    assert [bytes(np.asarray(row)).decode() for row in np.asarray(ids[:])] == IDS
    codecs = [codec["name"] for codec in gradient.metadata.to_dict()["codecs"]]  # type: ignore[union-attr,index]
    assert codecs == ["sharding_indexed"]


def test_the_same_content_gives_the_same_bytes(store: Path, tmp_path: Path):
    write_store(tmp_path / "again.zarr", [piece()], IDS, BITS, dict(reversed(ATTRIBUTES.items())))
    assert content_hash(tmp_path / "again.zarr") == content_hash(store)


def test_shards_cover_all_rows_once_and_pieces_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stages.core.data.gradient_store.SHARD_BYTES", 1)
    parts = list(shards(ROWS, PLACES * LAYERS, WIDTH))
    assert shard_rows(LAYERS, WIDTH) == 64 and [part.stop - part.start for part in parts] == [64, 64, 22]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(ROWS))
    write_store(tmp_path / "a.zarr", [piece(part.start, part.stop) for part in parts], IDS, BITS, ATTRIBUTES)
    assert len(list((tmp_path / "a.zarr/gradient/c").glob("*/0/0/0"))) == 3
    np.testing.assert_array_equal(
        open_store(tmp_path / "a.zarr", IDS).read("gradient"), rounded(piece()["gradient"], BITS)
    )


@pytest.mark.parametrize(("bits", "a_gigabyte"), [(7, 85), (10, 65)])
def test_a_large_store_has_few_files(tmp_path: Path, bits: int, a_gigabyte: int):
    """At most 13, and so many a gigabyte on disk (docs/data.md); here one row more than a shard holds."""
    d_model = 2560
    rows = shard_rows(1, d_model) + 1
    draw = np.random.default_rng(0).standard_normal((rows, 1, 1, d_model), dtype=np.float32)
    per_row = {name: np.zeros(rows) for name in ("target_logprob", "answer_logprob", "top_token")}
    whole = {"gradient": draw * 1e-3, "activation": draw, **per_row}
    pieces = [{name: values[part] for name, values in whole.items()} for part in shards(rows, 1, d_model)]
    write_store(tmp_path / "a.zarr", pieces, [f"{number:016x}" for number in range(rows)], bits, ATTRIBUTES)
    files = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    assert len(files) <= 13 + a_gigabyte * sum(path.stat().st_size for path in files) / 1e9


def test_places_are_read_by_name_and_cost_the_chunks_of_their_own(store: Path):
    found = open_store(store, IDS)
    rows = np.array([3, 70, 149])
    for name in ("gradient", "activation"):
        whole = found.read(name)
        np.testing.assert_array_equal(found.read(name, rows, ["subject", "target_1"]), whole[rows][:, [2, 0]])
        np.testing.assert_array_equal(found.read(name, slice(60, 70), ["target_2"]), whole[60:70, 1:2])
    spoil_nan(store)
    assert len(found.read("gradient", rows, ["target_2", "subject"])) == 3  # the NaN is of target_1


def test_some_rows_are_those_of_the_whole_and_are_checked_by_themselves(store: Path):
    found = open_store(store, IDS)
    assert found.prompt_ids(slice(60, 70)) == IDS[60:70]
    for name in ARRAYS:
        np.testing.assert_array_equal(found.read(name, slice(60, 70)), found.read(name)[60:70])
    spoil_nan(store)
    assert len(found.read("gradient", slice(4, 9))) == 5
    with pytest.raises(ValueError, match=f"gradient of prompt {IDS[3]}: NaN"):
        open_store(store, IDS).read("gradient", slice(2, 9))
    with pytest.raises(ValueError, match="its 150 rows are not the 149 prompts"):
        open_store(store, IDS[1:])


@pytest.mark.parametrize("name", ["gradient", "activation", "target_logprob"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_before_it_is_written_and_the_prompt_is_named(tmp_path: Path, name: str, bad: float):
    broken = piece()
    broken[name].reshape(ROWS, -1)[7, -1] = bad
    with pytest.raises(
        ValueError, match=rf"a.zarr: {name} of prompt {IDS[7]}: NaN or infinite, wanted numbers; 1 such"
    ):
        write_store(tmp_path / "a.zarr", [broken], IDS, BITS, ATTRIBUTES)


def spoil_nan(store: Path) -> None:
    array = zarr.open_group(store, mode="r+")["gradient"]
    assert isinstance(array, zarr.Array)
    array[3, 0, 1, 2] = np.nan


def truncate(store: Path) -> None:
    shard = store / "gradient/c/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])


def flip(store: Path) -> None:
    shard = store / "activation/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def edit_attributes(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    group.attrs["layers"] = [0]


def no_places(store: Path) -> None:
    del zarr.open_group(store, mode="r+").attrs["places"]


def take_a_shard_of_another_run(store: Path) -> None:
    other = store.with_name("other.zarr")
    write_store(other, [{**piece(), "gradient": 2 * piece()["gradient"]}], IDS, BITS, ATTRIBUTES)
    shutil.copy(other / "gradient/c/0/0/0/0", store / "gradient/c/0/0/0/0")


BROKEN: dict[str, tuple[Any, str]] = {
    "a missing shard": (lambda store: (store / "gradient/c/0/0/0/0").unlink(), "gradient: found 0 of 1 shards: .* cut"),
    "a truncated shard": (truncate, "gradient: a shard can't be read .*: the store was cut short"),
    "a flipped bit of an index": (flip, "activation: a shard can't be read .*: the store was cut short"),
    "a missing array": (lambda store: shutil.rmtree(store / "top_token"), "not a whole gradient store .*top_token"),
    "no metadata": (lambda store: (store / "zarr.json").unlink(), "not a whole gradient store"),
    "half of the metadata": (lambda store: (store / "zarr.json").write_text("{"), "not a whole gradient store"),
    "other layers": (edit_attributes, r"layers: found \[0\], wanted the layers of its arrays"),
    "no places, as of old": (no_places, "places: found None, wanted the places of its arrays; delete it and run"),
    "NaN": (spoil_nan, f"gradient of prompt {IDS[3]}: NaN or infinite, wanted numbers; 1 such rows"),
    "a shard of another run": (take_a_shard_of_another_run, "gradient/c/0/0/0/0: not the shard that its store was"),
    "nothing": (shutil.rmtree, "no such store; run the stage that writes it"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_store_that_is_not_whole_is_refused(store: Path, fault: str):
    spoil, message = BROKEN[fault]
    spoil(store)
    with pytest.raises(ValueError, match=f"music.zarr[:/] ?{message}") as caught:
        read_all(open_store(store, IDS))
    assert "\n" not in str(caught.value)


def test_a_store_of_other_prompts_is_refused(store: Path):
    for ids in (IDS[::-1], IDS[:-1], ["x" * ID_BYTES, *IDS[1:]]):
        with pytest.raises(ValueError, match=r"its 150 rows are not the .* prompts of the table before it"):
            open_store(store, ids)
