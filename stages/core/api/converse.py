"""Asks, reads, and asks once more where the answer can't be used; what can't be used then is put into quarantine."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Generic, TypeVar

from ..run.errors import InputError
from ..run.files import write_json
from .cache import CACHE, Cache
from .chat import FAULTS, FINAL, Answer, Fault, Request, repair
from .fetch import fetch
from .paid import Origin
from .section import Api
from .settings import switched_on
from .usage import Usage

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why there is no value, and the raw answers; `raw_repair` is "" when no repair was tried."""

    fault: Fault
    raw_answer: str
    raw_repair: str


@dataclass(frozen=True)
class Read(Generic[T]):
    """Values and failures by the questions' names, in the questions' order, and the answers that they come from."""

    values: dict[str, T]
    teachers: dict[str, str]  # by name: the model as the server resolved it
    failures: dict[str, Failure]
    answers: list[Answer]  # one a paid request
    repairs: int

    def metrics(self) -> dict[str, Any]:
        """What the answers cost when they were paid: the same whenever they are read again. Latency in seconds."""
        latencies = sorted(answer.latency for answer in self.answers)
        cuts = quantiles(latencies, n=20, method="inclusive") if len(latencies) > 1 else (latencies or [0.0]) * 19
        return {
            "rows": len(self.values),
            "calls": len(self.answers),
            "repairs": self.repairs,
            "prompt_tokens": sum(answer.prompt_tokens for answer in self.answers),
            "completion_tokens": sum(answer.completion_tokens for answer in self.answers),
            "calls_with_estimated_tokens": sum(answer.estimated for answer in self.answers),
            "cost_usd": round(sum(answer.cost for answer in self.answers), 6),
            "latency_median": round(cuts[9], 4),
            "latency_p95": round(cuts[18], 4),
            "quarantined": len(self.failures),
            "faults": dict(sorted(self.faults().items())),
        }

    def faults(self) -> Counter[str]:
        """Failures by name."""
        return Counter(failure.fault.name for failure in self.failures.values())

    def refuse_above(self, share: float, key: str, what: str) -> None:
        """Fails when more than `share` of the questions are in quarantine; their raw answers go to a side file first.

        Raises:
            InputError: they are; names the faults.
        """
        total = len(self.values) + len(self.failures)
        if len(self.failures) <= share * total:
            return
        path = CACHE / "quarantine" / f"{what}.json"
        rows = [
            {
                "name": name,
                "fault": str(failure.fault),
                "raw_answer": failure.raw_answer,
                "raw_repair": failure.raw_repair,
            }
            for name, failure in self.failures.items()
        ]
        write_json(path, rows)
        faults = "; ".join(f"{count} {name} ({FAULTS[name]})" for name, count in self.faults().most_common())
        first = next(iter(self.failures.values())).fault
        raise InputError(
            f"params.yaml: {key}: found {len(self.failures)} of {total} answers that can't be used, wanted at most a "
            f"share of {share}: {faults}; the first: {first}; raw answers: {path}; they are kept; another prompt or "
            "model asks anew, LABELS_ASK_AGAIN=1 asks the same once more"
        )


def converse(
    questions: Mapping[str, Request],
    read: Callable[[str, Answer], T],
    api: Api,
    *,
    batch: bool,
    what: str,
    usage: Usage,
    origin: Origin | None = None,
) -> Read[T]:
    """Answers all questions and reads them; `read(name, answer)` raises Fault for one that can't be used.

    With LABELS_ASK_AGAIN=1, what the cache holds of questions in quarantine is dropped first, and they are asked again.

    Raises:
        InputError: see `fetch`.
    """
    values: dict[str, tuple[T, str]] = {}
    failures: dict[str, Failure] = {}
    paid: dict[str, Answer] = {}
    again = _forget_quarantined(questions, read) if switched_on("LABELS_ASK_AGAIN") else set()

    def ask(requests: Mapping[str, Request], what: str) -> dict[str, Answer]:
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


def _forget_quarantined(questions: Mapping[str, Request], read: Callable[[str, Answer], T]) -> set[str]:
    """Drops the cached answers of questions whose repair, too, can't be used; returns the questions' names."""
    found: dict[str, list[str]] = {}
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
