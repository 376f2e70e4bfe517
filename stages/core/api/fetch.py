"""Answers to requests: from the cache, and for the rest from the server, each paid once and kept at once."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from ..run.errors import InputError
from ..run.stage import progress
from .cache import CACHE, Cache
from .chat import Answer, Request, Stop, Transient
from .paid import Origin, refuse_to_pay_again
from .section import Api, Price
from .settings import Settings, check_key, read_settings
from .spend import price_of
from .usage import Advance, Usage

LOOK = 0.3  # seconds between looks at whether the budget holds another request


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
    """The answers to all requests, by the requests' keys.

    Args:
        requests: what to ask; equal requests are asked once.
        api: prices and the budget.
        what: the progress bar's name.
        usage: is added to.
        origin: what a stage's requests are made of, by which it is seen whether they were paid for elsewhere.
        again: keys of requests that are asked again on purpose, wherever they were paid for.

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
                answers |= _Asker(cache, api, read_settings(), usage).ask(misses, what, batch=batch)
            finally:
                usage.spent_usd += cache.spent() - before
                usage.seconds += time.monotonic() - start
    return answers


class _Later(Exception):
    """The budget holds a request only after other requests in flight have ended."""


class _Asker:
    """Asks the server for answers that the cache does not hold."""

    def __init__(self, cache: Cache, api: Api, settings: Settings, usage: Usage) -> None:
        self.cache, self.api, self.settings, self.usage = cache, api, settings, usage
        self.rejected: dict[str, Answer] = {}
        self.unanswered: Counter[str] = Counter()
        self.given_up = 0
        self.failures_in_a_row = 0
        self.stop: InputError | None = None

    def ask(self, requests: Sequence[Request], what: str, *, batch: bool) -> dict[str, Answer]:
        """The answers to all requests, by key; `what`: the progress bar's name."""
        for request in requests:
            price_of(self.api, request.model)
        misses = list(requests)
        with progress(what, len(misses)) as advance:
            while misses:
                batched = self.cache.batched()
                # An answer that a batch is paid for is waited for, whatever the params say now.
                waiting = misses if batch else [request for request in misses if request.key in batched]
                if waiting:
                    self._by_batch(waiting, advance)
                else:
                    with self.cache.asking():
                        asyncio.run(self._online(misses, advance))
                done = self.cache.answers(request.key for request in misses).keys() | self.rejected.keys()
                misses = [request for request in misses if request.key not in done]
                if misses and (self.stop or self.unanswered):
                    raise self._refusal(len(requests), len(misses))
        return self.cache.answers(request.key for request in requests) | self.rejected

    def _refusal(self, wanted: int, missing: int) -> InputError:
        kept = f"{wanted - missing - self.given_up} of {wanted} answers are kept in {CACHE}"
        if self.stop:
            return InputError(f"{self.stop}; {kept}")
        names = ", ".join(f"{name} {count}" for name, count in self.unanswered.most_common())
        return InputError(
            f"{missing} requests got no answer in {self.settings.tries} tries each ({names}); {kept}; "
            "run again for the rest"
        )

    def _by_batch(self, requests: Sequence[Request], advance: Advance) -> None:
        from .batch import Batches  # this and the client take a second to import, and a warm run needs neither

        try:
            self.rejected |= Batches(requests, self.cache, self.api, self.settings, advance, self.usage).get()
        except Stop as stop:
            self.stop = stop

    async def _online(self, requests: Sequence[Request], advance: Advance) -> None:
        """Asks for each request by itself, as many at a time as the settings say."""
        from .client import Client

        client = Client(self.settings, self._on_fault, self.cache.idempotency_key)
        async with client.openai:
            todo = deque(requests)

            async def work() -> None:
                while todo and not self.stop:
                    request = todo.popleft()
                    try:
                        await self._one(request, client.ask, advance)
                    except _Later:
                        todo.appendleft(request)
                        await asyncio.sleep(LOOK)
                    except Stop as stop:
                        self.stop = self.stop or stop
                        client.stop()

            await asyncio.gather(*(work() for _ in range(self.settings.concurrency)))

    async def _one(
        self, request: Request, ask: Callable[[Request, Price], Awaitable[Answer]], advance: Advance
    ) -> None:
        """Claims a request, asks and stores the answer.

        Raises:
            _Later: the budget does not hold the request yet.
            Stop: asking on is of no use.
        """
        price = price_of(self.api, request.model)
        ceiling = request.ceiling(price, batch=False)
        claim = self.cache.claim(request.key, ceiling, self.api.budget)
        if claim == "full":
            raise self._over_budget(ceiling)
        if claim == "wait":
            raise _Later
        if claim == "answered":  # by a process that has asked meanwhile
            self.usage.from_other_runs += 1
            advance(1)
            return
        try:
            answer = await ask(request, price)
        except Transient as fault:
            self._unanswered(request, fault, advance)
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
            self.cache.store(request, answer)
        advance(1)

    def _unanswered(self, request: Request, fault: Transient, advance: Advance) -> None:
        """Notes a request that has had all its tries.

        Raises:
            Stop: as many in a row have, as there are in flight.
        """
        if fault.answer:
            self.cache.give_up(request.key, fault.answer)
            self.given_up += 1
            advance(1)
        else:
            self.cache.release(request.key)
            self.unanswered[fault.name] += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= self.settings.concurrency:
            what = "nothing that can be used" if fault.answer else "nothing"
            raise Stop(f"{fault.name}: the server answers {what} any more")

    def _on_fault(self, request: Request, fault: Transient) -> None:
        """Counts a failed try, and what it cost or may have cost.

        Raises:
            Stop: the budget does not hold another try.
            _Later: the budget holds one only once other requests in flight turn out cheaper than reserved.
        """
        self.usage.faults[fault.name] += 1
        if not fault.answer and not fault.billed:
            return
        ceiling = request.ceiling(price_of(self.api, request.model), batch=False)
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

    def _over_budget(self, ceiling: float) -> Stop:
        return Stop(
            f"params.yaml: api.budget: {self.api.budget:.4f} USD: {self.cache.spent():.4f} are spent, and the next "
            f"request may cost {ceiling:.4f}; raise the budget to go on"
        )
