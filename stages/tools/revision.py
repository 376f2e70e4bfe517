"""A revision of the repository as a review sees it: params, pipeline, lock and recorded results, without any data."""

import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flatten_dict import flatten
from ruamel.yaml import YAML

from ..core.run.errors import InputError
from .record import RESULTS, copy_of


@dataclass(frozen=True)
class Revision:
    """What git holds of a revision; a missing file is empty. `copies`: the JSON files below docs/results, by path."""

    params: dict[str, Any]
    lock: dict[str, Any]
    copies: dict[str, bytes]

    def copy(self, name: str) -> dict[str, Any]:
        """A recorded JSON file below docs/results; empty if there is none."""
        content = self.copies.get(f"{RESULTS.as_posix()}/{name}")
        return json.loads(content) if content else {}

    def stale_copies(self) -> list[str]:
        """The recorded metrics that are not of the run that dvc.lock speaks of, or that aren't there."""
        found = []
        for out in (out for entry in self.lock.values() for out in entry.get("outs", [])):
            if path := copy_of(out["path"]):
                content = self.copies.get(path.as_posix(), b"")
                if hashlib.md5(content, usedforsecurity=False).hexdigest() != out["md5"]:
                    found.append(path.as_posix())
        return found


def read_revision(revision: str | None) -> Revision:
    """Reads a git revision, or the working tree if `revision` is None.

    Raises:
        InputError: there is no such revision, or a file in it is not YAML.
    """
    if revision is None:
        return read(Path())
    done = subprocess.run(("git", "archive", f"{revision}^{{tree}}"), check=False, capture_output=True)
    if done.returncode:
        said = done.stderr.decode().strip()
        raise InputError(f"{revision}: no such revision here ({said}); fetch it: git fetch origin")
    with TemporaryDirectory() as folder, tarfile.open(fileobj=BytesIO(done.stdout)) as tree:
        tree.extractall(folder, filter="data")
        return read(Path(folder), f"{revision}:")


def read(root: Path, called: str = "") -> Revision:
    """Reads the tree at `root`; `called`: what stands before a file's name in errors."""
    copies = {path.relative_to(root).as_posix(): path.read_bytes() for path in (root / RESULTS).rglob("*.json")}
    params, lock = (yaml(root / name, f"{called}{name}") for name in ("params.yaml", "dvc.lock"))
    return Revision(params, lock.get("stages", {}), copies)


def differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which nested mappings differ, joined by dots, with both values; `...` where one lacks the key."""
    one, two = (flatten(side, reducer="dot", keep_empty_types=(dict,)) for side in (old, new))
    both = {key: (one.get(key, ...), two.get(key, ...)) for key in one | two}
    return {key: (old, new) for key, (old, new) in both.items() if old != new}


def yaml(path: Path, called: str) -> dict[str, Any]:
    """A YAML file; empty if it isn't there.

    Raises:
        InputError: it isn't YAML.
    """
    text = path.read_bytes() if path.is_file() else b""
    try:
        return YAML(typ="safe", pure=True).load(text.decode()) or {}
    except Exception as error:
        advice = "; see docs/sharing.md on merge conflicts" if b"<<<<<<<" in text else ""
        raise InputError(f"{called}: not YAML ({' '.join(str(error).split())[:200]}){advice}") from error
