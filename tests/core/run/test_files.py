"""Outputs appear whole or not at all; JSON and hashes of contents."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models

from stages.core.run.files import content_hash, read_json, replacing, write_json


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_and_a_folder_are_replaced_whole():
    for text in ("one", "two"):
        with replacing(Path("data/file")) as partial:
            partial.write_text(text)
        with replacing(Path("data/folder")) as partial:
            partial.mkdir()
            (partial / text).touch()
    assert Path("data/file").read_text() == "two"
    assert [path.name for path in Path("data/folder").iterdir()] == ["two"]
    assert sorted(path.name for path in Path("data").iterdir()) == ["file", "folder"]


def test_a_failure_leaves_what_was_there_and_nothing_else():
    Path("data/folder").mkdir(parents=True)
    Path("data/folder/old").touch()
    with pytest.raises(RuntimeError), replacing(Path("data/folder")) as partial:
        assert partial.parent.parent == Path("data")  # the same file system: the rename is one step
        partial.mkdir()
        (partial / "half").touch()
        raise RuntimeError
    assert [path.as_posix() for path in Path("data").rglob("*")] == ["data/folder", "data/folder/old"]


WRITERS = {
    "text": lambda path: path.write_text("text"),
    "arrays": lambda path: np.save(path.open("wb"), np.arange(9)),
    "a table": lambda path: pl.DataFrame({"a": range(9)}).write_parquet(path),
    "a text table": lambda path: pl.DataFrame({"a": range(9)}).write_csv(path),
    "a tokenizer": lambda path: Tokenizer(models.BPE()).save(str(path)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_the_same_error_whatever_was_writing(writer: str):
    with pytest.raises(OSError, match=r"No space left on device: 'data/out'$") as caught:
        write_to_a_full_disk(Path("data/out"), WRITERS[writer])
    assert caught.value.errno == errno.ENOSPC
    assert not list(Path("data").iterdir())


def write_to_a_full_disk(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file, and around it what is no file yet."""
    with replacing(path) as folder:
        folder.mkdir()
        with replacing(folder / "inner") as partial:
            partial.symlink_to("/dev/full")
            write(partial)


def test_other_errors_keep_their_words():
    with pytest.raises(pl.exceptions.PolarsError), replacing(Path("a")) as partial:
        partial.write_text("no table")
        pl.read_parquet(partial)
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(Path("a")):
        Path("elsewhere").read_text()
    with pytest.raises(OSError, match="elsewhere"), replacing(Path("a")):
        raise OSError(errno.ENOSPC, "No space left on device", "elsewhere")


def test_json_is_sorted_and_reads_back():
    write_json(Path("a.json"), {"b": 1, "a": "é"})
    assert Path("a.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert read_json(Path("a.json")) == {"a": "é", "b": 1}


def test_json_refuses_nan_and_keeps_what_was_there():
    write_json(Path("a.json"), 1)
    with pytest.raises(ValueError):
        write_json(Path("a.json"), float("nan"))
    assert read_json(Path("a.json")) == 1


def test_what_is_no_json_is_refused_by_name():
    with pytest.raises(ValueError, match=r"a.json: no such file; run the stage"):
        read_json(Path("a.json"))
    Path("a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.json: not JSON .*delete it and run dvc repro"):
        read_json(Path("a.json"))


def test_a_folder_s_hash_is_of_names_and_contents_wherever_it_lies():
    hashes = []
    for folder, name, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        Path(folder).mkdir()
        (Path(folder) / name).write_text(text)
        hashes.append(content_hash(Path(folder)))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    with pytest.raises(ValueError, match=r"e: no such file or an empty folder"):
        content_hash(Path("e"))


def test_json_of_metrics_says_the_same_twice():
    value = {"a": [1.5, None], "b": {"c": True}}
    write_json(Path("a.json"), value)
    write_json(Path("b.json"), json.loads(Path("a.json").read_text()))
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
