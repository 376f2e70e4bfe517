"""Questions to a teacher and what its answers say, from the cache or from the server, each paid once and kept at once.

An answer that can't be used is repaired once, then quarantined.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ..run.errors import InputError
from ..run.files import write_json
from ..run.stage import progress
from .cache import CACHE, Cache
from .chat import FAULTS, FINAL, Answer, Fault, Request, Stop, repair, unusable
from .section import Api, Asking
from .settings import check_key, read_settings, switched_on
from .spend import Origin, Usage, refuse_to_pay_again

Name = TypeVar("Name", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why an answer can't be used, as columns of a quarantine table: `fault` is one of FAULTS."""

    fault: str
    detail: str
    raw_answer: str
    raw_repair: str  # "" when no repair was tried


@dataclass(frozen=True)
class Read(Generic[Name, T]):
    """What was read of the answers: values and failures by the questions' names, in the questions' order."""

    values: dict[Name, T]
    teachers: dict[Name, str]  # by name: the model as the server resolved it
    failures: dict[Name, Failure]
    repairs: dict[Name, Request]  # what was asked where the first answer can't be used
    answers: dict[str, Answer]  # by request's key: all that were paid for, repairs included

    def metrics(self) -> dict[str, Any]:
        """Counts, tokens, US dollars and latency (seconds) of the answers, as when they were paid for."""
        answers = self.answers.values()
        median, p95 = np.quantile([answer.latency for answer in answers] or [0.0], [0.5, 0.95]).round(4).tolist()
        return {
            "rows": len(self.values),
            "calls": len(answers),
            "repairs": len(self.repairs),
            "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
            "completion_tokens": sum(answer.completion_tokens for answer in answers),
            "calls_with_estimated_tokens": sum(answer.estimated for answer in answers),
            "cost_usd": round(sum(answer.cost for answer in answers), 6),
            "latency_median": median,
            "latency_p95": p95,
            "quarantined": len(self.failures),
            "faults": dict(sorted(self.faults().items())),
        }

    def faults(self) -> Counter[str]:
        """How many failures have each fault, by the fault's name."""
        return Counter(failure.fault for failure in self.failures.values())


def converse(
    questions: Mapping[Name, Request],
    read: Callable[[Name, Answer], T],
    api: Api,
    asking: Asking,
    *,
    section: str,
    what: str,
    usage: Usage,
    origin: Origin | None = None,
) -> Read[Name, T]:
    """Asks all questions and reads the answers; `read(name, answer)` raises Fault for an answer that can't be used.

    With LABELS_ASK_AGAIN=1, what the cache holds of questions in quarantine is dropped first, and they are asked again.
    `section`: the section of params.yaml that `asking` is. `what`: the name of the progress bar, and of the file of raw
    answers if too many can't be used. `usage` is added to. `origin`: what a stage's requests are made of, by which it
    is seen whether they were paid for elsewhere.

    Raises:
        InputError: too many answers can't be used; or see `fetch`.
    """
    again: set[Name] = set()
    if switched_on("LABELS_ASK_AGAIN"):
        with Cache() as cache:
            kept = _talk(questions, read, lambda asked, _: cache.answers(asked[name].key for name in asked))
            again |= kept.failures.keys()
            requests = (asked[name] for asked in (questions, kept.repairs) for name in again & asked.keys())
            cache.forget({request.key for request in requests} & kept.answers.keys())

    def ask(asked: Mapping[Name, Request], more: str) -> dict[str, Answer]:
        on_purpose = {request.key for name, request in asked.items() if name in again}
        batch = asking.way == "batch"
        return fetch(asked.values(), api, batch=batch, what=what + more, usage=usage, origin=origin, again=on_purpose)

    found = _talk(questions, read, ask)
    if len(found.failures) > asking.max_quarantined * len(questions):
        path = CACHE / "quarantine" / f"{what}.json"
        write_json(path, [{"name": name, **vars(failure)} for name, failure in found.failures.items()])
        faults = "; ".join(f"{count} {name} ({FAULTS[name]})" for name, count in found.faults().most_common())
        first = next(iter(found.failures.values()))
        raise InputError(
            f"params.yaml: {section}.max_quarantined: found {len(found.failures)} of {len(questions)} answers that "
            f"can't be used, wanted at most a share of {asking.max_quarantined}: {faults}; the first: "
            f"{first.fault}: {first.detail}; raw answers: {path}; they are kept; another prompt or "
            "model asks anew, LABELS_ASK_AGAIN=1 asks the same once more"
        )
    return found


def _talk(
    questions: Mapping[Name, Request],
    read: Callable[[Name, Answer], T],
    ask: Callable[[Mapping[Name, Request], str], dict[str, Answer]],
) -> Read[Name, T]:
    """Asks once, and once more for a repair of what can't be used.

    `ask(requests, what)` gives answers by the requests' keys; a question that it has no answer to is passed over.
    """
    values: dict[Name, T] = {}
    teachers: dict[Name, str] = {}
    failures: dict[Name, Failure] = {}
    paid: dict[str, Answer] = {}

    def hear(requests: Mapping[Name, Request], answers: dict[str, Answer]) -> None:
        paid.update({key: answer for key, answer in answers.items() if not answer.rejected})
        for name, request in requests.items():
            if (answer := answers.get(request.key)) is None:
                continue
            before, raw = failures.pop(name, None), answer.content or answer.refusal
            try:
                values[name], teachers[name] = read(name, answer), answer.model
            except Fault as fault:
                raws = (before.raw_answer, raw) if before else (raw, "")
                failures[name] = Failure(fault.name, fault.detail, *raws)

    def in_order(found: dict[Name, Any]) -> dict[Name, Any]:
        return {name: found[name] for name in questions if name in found}

    answers = ask(questions, "")
    hear(questions, answers)
    repairs = {
        name: repair(questions[name], answers[questions[name].key], failure.fault, failure.detail)
        for name, failure in failures.items()
        if failure.fault not in FINAL
    }
    if repairs:
        hear(repairs, ask(repairs, ", repairs"))
    return Read(in_order(values), in_order(teachers), in_order(failures), repairs, paid)


def fetch(
    requests: Iterable[Request],
    api: Api,
    *,
    batch: bool,
    what: str,
    usage: Usage,
    origin: Origin | None = None,
    again: Collection[str] = (),
) -> dict[str, Answer]:
    """The answers to all requests, by the requests' keys; equal requests are asked once. See `converse`.

    `again`: keys of requests that are asked again on purpose, wherever they were paid for.

    Raises:
        InputError: no key, no price, the stage has paid for its answers before, the budget is spent, the server can't
            be asked on or left requests unanswered. All answers so far are kept, and running again asks for the rest
            only.
    """
    wanted = {request.key: request for request in requests}
    start = time.monotonic()
    with Cache() as cache:
        answers = cache.answers(wanted)
        usage.cached += len(answers)
        if misses := [request for key, request in wanted.items() if key not in answers]:
            if origin:
                known = cache.batched().union(again)  # paid for here, or asked on purpose
                refuse_to_pay_again(origin, [request for request in misses if request.key not in known], api)
            check_key(len(misses))
            before = cache.spent()
            try:
                answers |= _asked(misses, cache, api, usage, what, batch=batch)
            finally:
                usage.spent_usd += cache.spent() - before
                usage.seconds = round(usage.seconds + time.monotonic() - start, 3)
    return answers


def _asked(
    requests: Sequence[Request], cache: Cache, api: Api, usage: Usage, what: str, *, batch: bool
) -> dict[str, Answer]:
    """The server's answers to requests of which the cache holds none."""
    from .batch import Batches  # these two take a second to import, and a warm run needs neither
    from .client import Online

    for request in requests:
        api.price_of(request.model)
    settings = read_settings()
    answers: dict[str, Answer] = {}
    rejected: dict[str, Answer] = {}
    misses = requests
    with progress(what, len(requests)) as advance:
        while misses:
            batched = cache.batched()
            # An answer that a batch is paid for is waited for, whatever the params say now.
            waiting = misses if batch else [request for request in misses if request.key in batched]
            stop = None
            try:
                way = Batches if waiting else Online
                way(cache, api, settings, usage, advance, rejected).ask(waiting or misses)
            except Stop as error:
                stop = error
            answers = cache.answers(request.key for request in requests)
            done = answers.keys() | rejected.keys()
            misses = [request for request in requests if request.key not in done]
            if misses and stop:
                kept = sum(not unusable(answer) for answer in answers.values())
                raise InputError(
                    f"{stop}; {kept} of {len(requests)} answers are kept in {CACHE}; run again for the rest"
                )
    return answers | rejected
