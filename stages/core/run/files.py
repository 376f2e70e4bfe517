"""Files: outputs that appear whole or not at all, JSON and YAML with errors that name the file, content hashes."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from .errors import InputError, explain, one_line
from .seeds import digest

Kind = TypeVar("Kind")
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


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of sections.

    Raises:
        InputError: the file is missing, is not YAML or holds something else; the message names the file.
    """
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: run the stage in the repository's root") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: (whole file): wanted keys with values (found {str(content)[:80]})")
    return content


def read_validated(path: Path, validate: Callable[[dict[str, Any]], Kind]) -> Kind:
    """What a pydantic validator makes of a YAML or JSON file.

    Raises:
        InputError: it can't be read, or breaks the schema: names file, key, what was found and wanted.
    """
    try:
        return validate(read_json(path) if path.suffix == ".json" else read_yaml(path))
    except ValidationError as error:
        raise InputError(explain(str(path), error)) from error


def content_hash(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder's relative names and contents."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
        raise InputError(f"{path}: no such file or an empty folder; run the stage that writes it (dvc repro)")
    with ThreadPoolExecutor() as threads:
        hashes = list(threads.map(file_hash, files))
    return digest(*(file.relative_to(path).as_posix() for file in files), *hashes)


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
