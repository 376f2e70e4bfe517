"""Refuses to pay twice for answers that, going by dvc.lock, somebody has paid for.

DVC runs a stage again when its data are gone: a damaged cache, an edited hash, a clone without `dvc pull`. Whoever paid
has the answers in .cache/labels; for anybody else that run would pay for them once more. While a stage runs, dvc.lock
still has the entry of its last finished run. It decides here whether to stop and nothing else: no output depends on it,
so it is no dependency, and without it nothing is checked.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run.errors import InputError
from ..run.files import read_yaml
from .cache import CACHE
from .chat import Request
from .section import Api
from .settings import switched_on
from .spend import price_of

LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Origin:
    """The files and params that a stage's requests are made from: while these stay the same, so do the requests.

    `stage`: its name in dvc.lock. `files`: the dependencies that requests are built in and from. `params`: the keys of
    params.yaml that requests are built from, nested as there, with their values.
    """

    stage: str
    files: tuple[str, ...]
    params: dict[str, Any]


def refuse_to_pay_again(origin: Origin, misses: Sequence[Request], api: Api) -> None:
    """Refuses requests that, going by dvc.lock, were paid for when the stage last finished.

    Requests that cost nothing are let through, and all of them if the environment says so (see settings).

    Raises:
        InputError: they were paid for, or dvc.lock is no YAML, or a model has no price.
    """
    costs = any(request.ceiling(price_of(api, request.model), batch=False) for request in misses)
    if not costs or switched_on("LABELS_PAY_AGAIN") or not finished(origin):
        return
    raise InputError(
        f"{LOCK}: {origin.stage}: has been paid for: it finished with the same params and the same "
        f"{', '.join(origin.files)}, but {len(misses)} of its answers are not in {CACHE} here; nothing was asked or "
        f"spent. Get its data (dvc pull {origin.stage}, or dvc checkout {origin.stage}), or a copy of {CACHE} from "
        "whoever paid; or set LABELS_PAY_AGAIN=1 to pay again"
    )


def finished(origin: Origin) -> bool:
    """Whether dvc.lock has an entry of the stage that was made from the same files and params.

    Raises:
        InputError: dvc.lock is no YAML.
    """
    if not LOCK.is_file():
        return False
    try:
        entry = read_yaml(LOCK)["stages"][origin.stage]
        made_from = {dep["path"]: dep.get("md5") for dep in entry["deps"]}
        params = entry["params"]["params.yaml"]
    except (KeyError, TypeError):
        return False
    return holds(params, origin.params) and all(made_from.get(name) == md5(name) for name in origin.files)


def holds(found: Any, wanted: Any) -> bool:
    """Whether nested params `found` have every key of `wanted` with its value; they may have more keys."""
    if not isinstance(wanted, dict):
        return found == wanted
    return isinstance(found, dict) and all(key in found and holds(found[key], wanted[key]) for key in wanted)


def md5(name: str) -> str:
    """A file's hash as dvc.lock has it."""
    return hashlib.md5(Path(name).read_bytes(), usedforsecurity=False).hexdigest()
