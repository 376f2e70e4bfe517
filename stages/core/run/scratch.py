"""The scratch folder that a killed stage resumes from, keyed on all that dvc.yaml declares for the stage."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import content_hash, file_hash, read_yaml, replacing
from .params import PARAMS, value_at
from .seeds import digest

SCRATCH = Path(".scratch")
PACKAGE = __name__.partition(".")[0]
COMPUTING = ("numpy", "polars", "torch", "transformers")
"""Libraries whose version is part of the key."""


class Scratch:
    """A git-ignored folder for finished pieces of unfinished work. A piece appears whole or not at all.

    A stage that is killed finds its pieces again when it is started with the same key, and `clear` removes them once
    the output stands. The key is a hash of what the stage's entry in dvc.yaml declares (`declared`), of the code that
    is loaded and of the libraries' versions.

    Args:
        stage: the stage's name in dvc.yaml of the working directory, or in a dvc.yaml of a folder below stages/.
        items: the arguments of its command, its item of the matrix first.

    Raises:
        InputError: no dvc.yaml has such a stage, or something that it declares is not there.
    """

    def __init__(self, stage: str, *items: str) -> None:
        self.folder = SCRATCH / stage / digest(*declared(stage, *items), json.dumps(code(), sort_keys=True))[:20]
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


def declared(stage: str, *items: str) -> list[str]:
    """Name, items, each dependency with its content's hash and each param with its value, of a stage in dvc.yaml."""
    folder, entry = entry_of(stage)
    parts = [stage, str(len(items)), *items]
    for dependency in entry.get("deps") or []:
        name = next(iter(dependency)) if isinstance(dependency, dict) else dependency  # it may have options
        path = re.sub(r"\$\{(item(\.\w+)?|key)\}", items[0] if items else "", name)
        parts += [path, content_hash(folder / path)]
    for param in entry.get("params") or []:
        for file, keys in (param if isinstance(param, dict) else {PARAMS.name: [param]}).items():
            content = read_yaml(folder / file)
            for key in keys or content:
                parts += [file, key, json.dumps(value_at(content, key, folder / file), sort_keys=True, default=str)]
    return parts


def entry_of(stage: str) -> tuple[Path, dict[str, Any]]:
    """A stage's entry in dvc.yaml, and the folder that its paths start from."""
    for file in (Path("dvc.yaml"), *sorted(Path("stages").glob("*/dvc.yaml"))):
        found = read_yaml(file)["stages"].get(stage)
        if found is not None:
            entry = found.get("do", found)
            return file.parent / entry.get("wdir", "."), entry
    raise InputError(
        f"dvc.yaml: stage {stage}: missing: wanted its entry there or in stages/*/dvc.yaml, which says what it reads"
    )


def code() -> dict[str, str]:
    """Hashes of this project's modules that are loaded, and versions of the libraries that compute, by name."""
    loaded = [name for name in sys.modules if name == "__main__" or name.startswith(f"{PACKAGE}.")]
    files = {name: file for name in loaded if (file := getattr(sys.modules[name], "__file__", None))}
    versions = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in COMPUTING}
    return versions | {name: file_hash(Path(file)) for name, file in files.items()}
