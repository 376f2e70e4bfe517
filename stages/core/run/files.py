"""Outputs that appear whole or not at all, and the scratch folder that a killed stage resumes from."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError
from .seeds import digest

SCRATCH = Path(".scratch")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the system that reading never meets: no room, no quota, a file too large, a read-only disk."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` when the block ends without an exception.

    The block may write a file or a folder there. On an exception the temporary is removed and `path` stays as it was.

    Raises:
        OSError: there's no room, or the disk is read-only, whatever the library that was writing raises; names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield room / path.name
        if path.is_dir():
            path.rename(room / "replaced")
        (room / path.name).replace(path)
    except Exception as error:
        number = unwritable(error)
        named = getattr(error, "filename", None)
        if number is None or (named and not Path(str(named)).is_relative_to(room)):  # another file, by its name
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def unwritable(error: Exception) -> int | None:
    """Which of UNWRITABLE an error is, if any: what Rust's libraries raise has the number in its text only."""
    said = re.search(r"\(os error (\d+)\)", str(error))
    number = int(said[1]) if said else getattr(error, "errno", None)
    return number if number in UNWRITABLE else None


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys.

    Raises:
        InputError: a number is NaN or infinite, which JSON can't hold.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        InputError: the file is missing or is not JSON; the message names the file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); delete it and run dvc repro") from error


class Scratch:
    """A git-ignored folder for finished pieces of unfinished work, keyed by everything that the work depends on.

    The code that is running is part of the key, so that pieces of an older version are never taken for ours. A piece
    appears whole or not at all. A stage that is killed finds its pieces again when it is started with the same key, and
    `clear` removes them once the output stands.
    """

    def __init__(self, stage: str, *depends_on: str | int | float) -> None:
        self.folder = SCRATCH / stage / digest(running_code(), *depends_on)[:20]
        self.folder.mkdir(parents=True, exist_ok=True)

    def piece(self, name: str, make: Callable[[Path], None]) -> Path:
        """The path of piece `name`, made by `make(path)` unless an earlier run has finished it."""
        path = self.folder / name
        if not path.exists():
            with replacing(path) as partial:
                make(partial)
        return path

    def clear(self) -> None:
        """Removes the pieces."""
        shutil.rmtree(self.folder, ignore_errors=True)


def code() -> dict[str, str]:
    """Hashes of this project's modules that are loaded, and versions of what computes for them, by name."""
    names = [name for name in sys.modules if name == "__main__" or name.startswith("stages.")]
    files = {name: file for name in names if (file := getattr(sys.modules[name], "__file__", None))}
    versions = {
        name: str(getattr(sys.modules.get(name), "__version__", ""))
        for name in ("numpy", "polars", "torch", "transformers")
    }
    return versions | {name: file_hash(Path(file)) for name, file in files.items()}


def running_code() -> str:
    """A hash of `code`."""
    return digest(*(part for item in sorted(code().items()) for part in item))


def content_hash(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder's relative names and contents."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
        raise InputError(f"{path}: no such file or an empty folder; run the stage that writes it (dvc repro)")
    parts: list[str] = []
    for file in files:
        parts += [file.relative_to(path).as_posix(), file_hash(file)]
    return digest(*parts)


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
