"""What asking costs: worked out before anything is spent, refused where somebody has paid already, and counted.

Refused: DVC runs a stage again when its data are gone: a damaged cache, an edited hash, a clone without `dvc pull`.
Whoever paid has the answers in .cache/labels; for anybody else that run would pay for them once more. While a stage
runs, dvc.lock still has the entry of its last finished run. It decides here whether to stop and nothing else: no output
depends on it, so it is no dependency, and without it nothing is checked.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..run.errors import InputError
from ..run.files import read_yaml
from .cache import CACHE, FILE, Cache
from .chat import Request, cost
from .section import Api, Asking
from .settings import switched_on

LOCK = Path("dvc.lock")


@dataclass
class Usage:
    """What one run of a stage asked: requests by who answered them, failed tries by name, seconds and US dollars.

    It goes to a side file, never to an output.
    """

    cached: int = 0
    asked: int = 0
    from_other_runs: int = 0
    uncertain: int = 0  # tries whose answer never arrived; they count as spent at their ceiling
    seconds: float = 0.0
    spent_usd: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


def estimate(requests: Iterable[Request], api: Api, asking: Asking) -> str:
    """What the answers that the cache does not hold would cost, in words: at most, and as the model's stored answers
    suggest, if it has any. Asks nothing, and makes no cache where there is none.
    """
    wanted = {request.key: request for request in requests}
    batch = asking.way == "batch"
    stored, spent, rates = {}, 0.0, {}
    if FILE.exists():
        with Cache() as cache:
            stored, spent = cache.answers(wanted), cache.spent()
            rates = {model: cache.typical(model) for model in {request.model for request in wanted.values()}}
    calls = [request for key, request in wanted.items() if key not in stored]
    most = sum(request.ceiling(api, batch=batch) for request in calls)
    likely: list[float] = []
    for request in calls:
        if rate := rates.get(request.model):
            tokens = round(rate[0] * len(request.canonical)), round(rate[1])
            likely.append(cost(api.price_of(request.model), *tokens, batch=batch))
    known = calls and len(likely) == len(calls)
    return (
        f"{len(wanted)} requests, {len(wanted) - len(calls)} cached, {len(calls)} calls, at most "
        f"{sum(request.most_input for request in calls)} input and {sum(request.most_output for request in calls)} "
        f"output tokens, at most {most:.4f} USD{f', likely {sum(likely):.4f}' if known else ''} "
        f"(a repair of a wrong answer is one more call); spent so far {spent:.4f} of the budget of {api.budget:.4f} USD"
    )


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
    costs = any(request.ceiling(api, batch=False) for request in misses)
    if not costs or switched_on("LABELS_PAY_AGAIN") or not _finished(origin):
        return
    raise InputError(
        f"{LOCK}: {origin.stage}: has been paid for: it finished with the same params and the same "
        f"{', '.join(origin.files)}, but {len(misses)} of its answers are not in {CACHE} here; nothing was asked or "
        f"spent. Get its data (dvc pull {origin.stage}, or dvc checkout {origin.stage}), or a copy of {CACHE} from "
        "whoever paid; or set LABELS_PAY_AGAIN=1 to pay again"
    )


def _finished(origin: Origin) -> bool:
    """Whether dvc.lock has an entry of the stage that was made from the same files and params."""
    if not LOCK.is_file():
        return False
    try:
        entry = read_yaml(LOCK)["stages"][origin.stage]
        hashes = {dep["path"]: dep.get("md5") for dep in entry["deps"]}
        params = entry["params"]["params.yaml"]
    except (KeyError, TypeError):
        return False
    now = {name: hashlib.md5(Path(name).read_bytes(), usedforsecurity=False).hexdigest() for name in origin.files}
    return _holds(params, origin.params) and now.items() <= hashes.items()


def _holds(found: Any, wanted: Any) -> bool:
    """Whether nested params `found` have every key of `wanted` with its value; they may have more keys."""
    if not isinstance(wanted, dict):
        return found == wanted
    return isinstance(found, dict) and all(key in found and _holds(found[key], wanted[key]) for key in wanted)
