"""Questions to a teacher and what its answers say: an answer that can't be used is repaired once, then quarantined."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ..run.errors import InputError
from ..run.files import write_json
from .cache import CACHE, Cache
from .chat import FAULTS, FINAL, Answer, Fault, Request, repair
from .fetch import fetch
from .paid import Origin
from .section import Api
from .settings import switched_on
from .usage import Usage

Name = TypeVar("Name", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why an answer can't be used, with the raw text; `raw_repair` is "" when no repair was tried."""

    fault: Fault
    raw_answer: str
    raw_repair: str

    def row(self) -> dict[str, str]:
        """The failure as columns of a quarantine table."""
        raw = {"raw_answer": self.raw_answer, "raw_repair": self.raw_repair}
        return {"fault": self.fault.name, "detail": self.fault.detail, **raw}


@dataclass(frozen=True)
class Read(Generic[Name, T]):
    """What was read of the answers: values and failures by the questions' names, in the questions' order."""

    values: dict[Name, T]
    teachers: dict[Name, str]  # by name: the model as the server resolved it
    failures: dict[Name, Failure]
    answers: list[Answer]  # all that were paid for, repairs included
    repairs: int

    def metrics(self) -> dict[str, Any]:
        """Counts, tokens, US dollars and latency (seconds) of the answers, as when they were paid for."""
        median, p95 = np.quantile([answer.latency for answer in self.answers] or [0.0], [0.5, 0.95]).round(4).tolist()
        return {
            "rows": len(self.values),
            "calls": len(self.answers),
            "repairs": self.repairs,
            "prompt_tokens": sum(answer.prompt_tokens for answer in self.answers),
            "completion_tokens": sum(answer.completion_tokens for answer in self.answers),
            "calls_with_estimated_tokens": sum(answer.estimated for answer in self.answers),
            "cost_usd": round(sum(answer.cost for answer in self.answers), 6),
            "latency_median": median,
            "latency_p95": p95,
            "quarantined": len(self.failures),
            "faults": dict(sorted(self.faults().items())),
        }

    def faults(self) -> Counter[str]:
        """How many failures have each fault, by the fault's name."""
        return Counter(failure.fault.name for failure in self.failures.values())

    def refuse_above(self, share: float, key: str, what: str) -> None:
        """Refuses more than a `share` of the questions in quarantine, after writing their raw answers to a file.

        Raises:
            InputError: they are; names the faults.
        """
        total = len(self.values) + len(self.failures)
        if len(self.failures) <= share * total:
            return
        path = CACHE / "quarantine" / f"{what}.json"
        write_json(path, [{"name": name, **failure.row()} for name, failure in self.failures.items()])
        faults = "; ".join(f"{count} {name} ({FAULTS[name]})" for name, count in self.faults().most_common())
        first = next(iter(self.failures.values())).fault
        raise InputError(
            f"params.yaml: {key}: found {len(self.failures)} of {total} answers that can't be used, wanted at most a "
            f"share of {share}: {faults}; the first: {first}; raw answers: {path}; they are kept; another prompt or "
            "model asks anew, LABELS_ASK_AGAIN=1 asks the same once more"
        )


def converse(
    questions: Mapping[Name, Request],
    read: Callable[[Name, Answer], T],
    api: Api,
    *,
    batch: bool,
    what: str,
    usage: Usage,
    origin: Origin | None = None,
) -> Read[Name, T]:
    """Asks all questions and reads the answers; `read(name, answer)` raises Fault for an answer that can't be used.

    With LABELS_ASK_AGAIN=1, what the cache holds of questions in quarantine is dropped first, and they are asked again.

    Raises:
        InputError: see `fetch`.
    """
    values: dict[Name, tuple[T, str]] = {}
    failures: dict[Name, Failure] = {}
    paid: dict[str, Answer] = {}
    again = _forget_quarantined(questions, read) if switched_on("LABELS_ASK_AGAIN") else set()

    def ask(requests: Mapping[Name, Request], what: str) -> dict[str, Answer]:
        on_purpose = {request.key for name, request in requests.items() if name in again}
        answers = fetch(requests.values(), api, batch=batch, what=what, usage=usage, origin=origin, again=on_purpose)
        paid.update({key: answer for key, answer in answers.items() if not answer.rejected})
        for name, request in requests.items():
            answer, before = answers[request.key], failures.pop(name, None)
            raw = answer.content or answer.refusal
            try:
                values[name] = read(name, answer), answer.model
            except Fault as fault:
                failures[name] = Failure(fault, before.raw_answer, raw) if before else Failure(fault, raw, "")
        return answers

    answers = ask(questions, what)
    repairs = {
        name: repair(request, answers[request.key], failures[name].fault)
        for name, request in questions.items()
        if name in failures and failures[name].fault.name not in FINAL
    }
    if repairs:
        ask(repairs, f"{what}, repairs")
    return Read(
        values={name: values[name][0] for name in questions if name in values},
        teachers={name: values[name][1] for name in questions if name in values},
        failures={name: failures[name] for name in questions if name in failures},
        answers=list(paid.values()),
        repairs=len(repairs),
    )


def _forget_quarantined(questions: Mapping[Name, Request], read: Callable[[Name, Answer], T]) -> set[Name]:
    """Drops the cached answers of questions whose repair, too, can't be used; returns the questions' names."""
    found: dict[Name, list[str]] = {}
    with Cache() as cache:
        for name, request in questions.items():
            keys: list[str] = []
            while len(keys) < 2 and (answer := cache.answers([request.key]).get(request.key)):
                try:
                    read(name, answer)
                    keys = []
                    break
                except Fault as fault:
                    keys.append(request.key)
                    if fault.name in FINAL:
                        break
                    request = repair(request, answer, fault)
            if keys:
                found[name] = keys
        cache.forget(key for keys in found.values() for key in keys)
    return set(found)
