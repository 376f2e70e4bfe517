"""Requests sent one by one, as many at a time as the settings say; every fault has a name, and most are tried again.

Each request carries an Idempotency-Key, so that a server which honours it bills a request that is sent again only once;
after an unusable answer it is a new one.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from .chat import Answer, Request, Stop, Transient, unusable
from .client import LONGEST_BACKOFF, Asker, answer_of, body_of, connect, retry_after
from .settings import redact

LOOK = 0.3  # seconds between looks at whether the budget holds another request


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

    async def ask(self, requests: Sequence[Request]) -> None:
        """Asks for the answers and stores them.

        Raises:
            Stop: requests got no answer, or asking on is of no use.
        """
        todo = deque(requests)
        async with connect(openai.AsyncOpenAI, self.settings) as client:
            await asyncio.gather(*(self._work(todo, client) for _ in range(self.settings.concurrency)))
        if self.stop:
            raise self.stop
        if self.unanswered:
            names = ", ".join(f"{name} {count}" for name, count in self.unanswered.most_common())
            raise Stop(
                f"{self.unanswered.total()} requests got no answer in {self.settings.tries} tries each ({names})"
            )

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
            Stop: asking on is of no use.
        """
        ceiling = request.ceiling(self.api, batch=False)
        claim = self.cache.claim(request.key, ceiling, self.api.budget)
        if claim == "full":
            raise self._over_budget(ceiling)
        if claim == "wait":
            raise _Later
        if claim == "answered":  # by a process that has asked meanwhile
            self.usage.from_other_runs += 1
            self.advance(1)
            return
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(self.settings.tries),
            wait=self._wait,
            after=self._count_fault,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            answer = await retrying(self._try, request, client)
        except Transient as fault:
            self._unanswered(request, fault)
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

    async def _try(self, request: Request, client: openai.AsyncOpenAI) -> Answer:
        """The answer to one try; one with `rejected` if the server refuses the request."""
        try:
            while (rest := self.quiet_until - time.monotonic()) > 0:
                await self._sleep(rest)
            start = time.monotonic()
            headers = {"Idempotency-Key": self.cache.idempotency_key(request.key)}
            # The client's own limit is for each read; this one is for the whole answer.
            async with asyncio.timeout(self.settings.timeout):
                found = await client.chat.completions.with_raw_response.create(**request.body, extra_headers=headers)
            latency = time.monotonic() - start
            price, size = self.api.price_of(request.model), len(request.canonical)
            answer = answer_of(body_of(found.content), request.model, size, price, batch=False, latency=latency)
            if fault := unusable(answer):
                raise Transient(fault, answer=answer)
            return answer
        except openai.APIStatusError as error:
            return Answer(model=request.model, rejected=self._words_of_refusal(error))  # it costs nothing, isn't kept
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
            raise Transient("rate_limit", wait=wait) from None
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

    def _wait(self, state: RetryCallState) -> float:
        backoff = wait_random_exponential(multiplier=self.settings.backoff, max=LONGEST_BACKOFF)
        wait = _fault(state).wait
        return backoff(state) if wait is None else wait

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
            raise Stop("stopped") from None

    def _count_fault(self, state: RetryCallState) -> None:
        """Counts a failed try, and what it cost or may have cost.

        Raises:
            Stop: the budget does not hold another try.
            _Later: it does only once others in flight turn out cheaper than reserved.
        """
        request, fault = state.args[0], _fault(state)
        self.usage.faults[fault.name] += 1
        if not fault.answer and not fault.billed:
            return
        ceiling = request.ceiling(self.api, batch=False)
        if fault.answer:
            with self.cache.transaction() as db:
                self.cache.throw_away(db, request.key, fault.answer.cost)
        else:
            self.usage.uncertain += 1
            self.cache.uncertain(ceiling)
        if self.cache.spent() + ceiling > self.api.budget:
            raise self._over_budget(ceiling)
        if self.cache.spent() + self.cache.reserved() > self.api.budget:
            raise _Later

    def _unanswered(self, request: Request, fault: Transient) -> None:
        """Notes a request that has had all its tries.

        Raises:
            Stop: as many in a row have, as there are in flight.
        """
        if fault.answer:
            self.cache.give_up(request.key, fault.answer)
            self.advance(1)
        else:
            self.cache.release(request.key)
            self.unanswered[fault.name] += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= self.settings.concurrency:
            what = "nothing that can be used" if fault.answer else "nothing"
            raise Stop(f"{fault.name}: the server answers {what} any more")

    def _over_budget(self, ceiling: float) -> Stop:
        return Stop(
            f"params.yaml: api.budget: {self.api.budget:.4f} USD: {self.cache.spent():.4f} are spent, and the next "
            f"request may cost {ceiling:.4f}; raise the budget to go on"
        )


def _fault(state: RetryCallState) -> Transient:
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, Transient)
    return fault
