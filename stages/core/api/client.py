"""Requests sent one by one through the openai package, many at a time; faults that may pass are tried again.

Retries of the package are off: it does not tell faults that cost money from faults that don't, retries an exhausted
quota for nothing, and never ends an answer that drips in byte by byte. Each request carries an Idempotency-Key, so that
a server which honours it bills a request that is sent again only once; after an unusable answer it is a new one.
"""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx2
import openai
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from .cache import Cache
from .chat import Answer, Request, Stop, Transient, answer_of, body_of, unusable
from .section import Api
from .settings import Settings, redact
from .spend import Usage

AnyClient = TypeVar("AnyClient", openai.OpenAI, openai.AsyncOpenAI)
LONGEST_BACKOFF = 30.0  # seconds
LOOK = 0.3  # seconds between looks at whether the budget holds another request


def connect(kind: type[AnyClient], settings: Settings) -> AnyClient:
    """An openai client without retries of its own, for the address in the environment.

    Raises:
        Stop: the address is none.
    """
    try:
        # An empty OPENAI_BASE_URL would be taken as an address.
        return kind(base_url=os.environ.get("OPENAI_BASE_URL") or None, max_retries=0, timeout=settings.timeout)
    except (openai.OpenAIError, httpx2.InvalidURL, ValueError) as error:
        raise Stop(
            f"environment: OPENAI_BASE_URL: {redact(str(error))}; wanted an address like https://host/v1"
        ) from None


@dataclass
class Asker:
    """What asking takes, online or by batch.

    `advance` moves the progress bar on by so many answers; `rejected`: the answers, by key, that
    say that the server refused the request itself.
    """

    cache: Cache
    api: Api
    settings: Settings
    usage: Usage
    advance: Callable[[int], None]
    rejected: dict[str, Answer]


class _Later(Exception):
    """The budget holds a request only once others in flight turn out cheaper than reserved."""


@dataclass
class Online(Asker):
    """Asks for each request by itself."""

    unanswered: Counter[str] = field(default_factory=Counter)
    failures_in_a_row: int = 0
    quiet_until: float = 0.0  # a server that says when to come back says it to all
    stop: Stop | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # no further try is started

    def ask(self, requests: Sequence[Request]) -> None:
        """Asks for the answers and stores them.

        Raises:
            Stop: requests got no answer, or asking on is of no use.
        """
        with self.cache.asking():
            known = self.cache.answers(request.key for request in requests).keys() | self.cache.batched()
            todo = deque(request for request in requests if request.key not in known)
            self.usage.from_other_runs += len(requests) - len(todo)  # that have asked while this one waited
            self.advance(len(requests) - len(todo))
            asyncio.run(self._ask(todo))
        if self.stop:
            raise self.stop
        if self.unanswered:
            names = ", ".join(f"{name} {count}" for name, count in self.unanswered.most_common())
            raise Stop(
                f"{self.unanswered.total()} requests got no answer in {self.settings.tries} tries each ({names})"
            )

    async def _ask(self, todo: deque[Request]) -> None:
        async with connect(openai.AsyncOpenAI, self.settings) as client:
            await asyncio.gather(*(self._work(todo, client) for _ in range(self.settings.concurrency)))

    async def _work(self, todo: deque[Request], client: openai.AsyncOpenAI) -> None:
        while todo and not self.stop:
            request = todo.popleft()
            try:
                await self._one(request, client)
            except _Later:
                todo.appendleft(request)
                await asyncio.sleep(LOOK)
            except Stop as stop:
                self.stop = self.stop or stop
                self.stopping.set()

    async def _one(self, request: Request, client: openai.AsyncOpenAI) -> None:
        """Claims a request, asks as many times as the settings allow, and stores the answer.

        Raises:
            _Later: the budget does not hold the request yet.
            Stop: asking on is of no use, or as many requests in a row got no answer as there are in flight.
        """
        ceiling = request.ceiling(self.api, batch=False)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(self.settings.tries),
            wait=wait_random_exponential(multiplier=self.settings.backoff, max=LONGEST_BACKOFF),
            sleep=self._sleep,
            reraise=True,
        )
        self.cache.claim(request.key, ceiling)
        try:
            self._check_budget(ceiling)
            answer = await retrying(self._try, request, client, ceiling)
        except Transient as fault:
            if fault.answer:
                self.cache.give_up(request.key, fault.answer)
                self.advance(1)
            else:
                self.cache.release(request.key)
                self.unanswered[fault.name] += 1
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= self.settings.concurrency:
                what = "nothing that can be used" if fault.answer else "nothing"
                raise Stop(f"{fault.name}: the server answers {what} any more") from None
            return
        except (Stop, _Later):
            self.cache.release(request.key)
            raise
        self.usage.asked += 1
        self.failures_in_a_row = 0
        if answer.rejected:
            self.cache.release(request.key)
            self.rejected[request.key] = answer
        else:
            with self.cache.transaction() as db:
                self.cache.keep(db, request.key, request.model, len(request.canonical), answer)
        self.advance(1)

    async def _try(self, request: Request, client: openai.AsyncOpenAI, ceiling: float) -> Answer:
        """The answer to one try, which is counted if it fails; one with `rejected` where the request is refused."""
        try:
            return await self._send(request, client)
        except Transient as fault:
            self.usage.faults[fault.name] += 1
            if fault.answer:
                with self.cache.transaction() as db:
                    self.cache.throw_away(db, request.key, fault.answer.cost)
            elif fault.billed:
                self.usage.uncertain += 1
                self.cache.uncertain(ceiling)
            else:
                raise
            self._check_budget(ceiling)
            raise

    async def _send(self, request: Request, client: openai.AsyncOpenAI) -> Answer:
        try:
            while (rest := self.quiet_until - time.monotonic()) > 0:
                await self._sleep(rest)
            start = time.monotonic()
            headers = {"Idempotency-Key": self.cache.idempotency_key(request.key)}
            # The client's own limit is for each read; this one is for the whole answer.
            async with asyncio.timeout(self.settings.timeout):
                found = await client.chat.completions.with_raw_response.create(**request.body, extra_headers=headers)
            latency = time.monotonic() - start
            body, size, price = body_of(found.content), len(request.canonical), self.api.price_of(request.model)
            answer = answer_of(body, request.model, size, price, batch=False, latency=latency)
            if fault := unusable(answer):
                raise Transient(fault, answer=answer)
            return answer
        except openai.APIStatusError as error:
            return Answer(model=request.model, rejected=self._words_of_refusal(error))
        except (TimeoutError, openai.APITimeoutError):
            raise Transient("timeout", billed=True) from None
        except openai.APIConnectionError as error:
            refused = isinstance(error.__cause__, httpx2.ConnectError | httpx2.UnsupportedProtocol)
            raise Transient("no_connection" if refused else "connection_cut", billed=not refused) from None
        except (httpx2.HTTPError, openai.OpenAIError):
            raise Transient("broken_body", billed=True) from None

    def _words_of_refusal(self, error: openai.APIStatusError) -> str:
        """The server's words if it refuses this one request.

        Raises:
            Transient: another try may succeed.
            Stop: asking on is of no use.
        """
        status, words = error.status_code, redact(error.message)[:300]
        if status == 429:
            if "insufficient_quota" in (error.code, error.type):
                raise Stop(f"insufficient_quota: the account is empty ({words}); top it up and run again") from None
            wait = retry_after(error.response.headers)
            if wait is not None and wait > self.settings.longest_wait:
                raise Stop(
                    f"rate_limit: the server asks to wait {wait:.0f} s, more than LABELS_LONGEST_WAIT "
                    f"({self.settings.longest_wait:.0f} s); run again later"
                ) from None
            if wait is not None:
                self.quiet_until = max(self.quiet_until, time.monotonic() + wait)
            raise Transient("rate_limit") from None
        if status in (408, 409) or status >= 500:
            raise Transient("server_error") from None
        if status in (401, 403):
            raise Stop(f"wrong_key: HTTP {status}: {words}; check OPENAI_API_KEY and OPENAI_BASE_URL") from None
        if status == 404:
            raise Stop(
                f"not_found: HTTP 404: {words}; check OPENAI_BASE_URL and the teacher's model in params.yaml"
            ) from None
        if status < 400:
            raise Stop(f"redirect: HTTP {status}; check OPENAI_BASE_URL") from None
        return f"HTTP {status}: {words}"

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
            raise Stop("stopped") from None

    def _check_budget(self, ceiling: float) -> None:
        """Looks whether the budget holds a claimed request.

        Raises:
            Stop: it does not.
            _Later: it does once others in flight turn out cheaper than reserved.
        """
        spent, budget = self.cache.spent(), self.api.budget
        if spent + ceiling > budget:
            raise Stop(
                f"params.yaml: api.budget: {budget:.4f} USD: {spent:.4f} are spent, and the next request may cost "
                f"{ceiling:.4f}; raise the budget to go on"
            )
        if spent + self.cache.reserved() > budget:
            raise _Later


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that a Retry-After header asks to wait (in milliseconds, seconds or as a date); None without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(ValueError):
            if 0 <= (seconds := float(headers.get(name, "")) / unit) < float("inf"):
                return seconds
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None
