"""Answers to requests: from the cache, and for the rest from the server, each paid once and kept at once."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from ..run.errors import InputError
from ..run.stage import progress
from .cache import CACHE, Cache
from .chat import Answer, Request
from .paid import Origin, refuse_to_pay_again
from .section import Api
from .settings import Settings, check_key, read_settings
from .spend import price_of
from .usage import Advance, Usage

if TYPE_CHECKING:  # the client takes a second to import, and a warm run never needs it
    from .client import Client, Transient

LOOK = 0.3  # seconds between looks at what another process is getting


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
        batch: through the Batch API.
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
                _, batched = cache.held(request.key for request in misses)  # those are paid for, here
                unpaid = batched.union(again)
                refuse_to_pay_again(origin, [request for request in misses if request.key not in unpaid], api)
            check_key(len(misses))
            before = cache.spent()
            getter = _Getter(cache, api, read_settings(), usage)
            try:
                answers |= getter.get(misses, what, batch=batch)
            finally:
                usage.spent_usd += cache.spent() - before
                usage.seconds += time.monotonic() - start
    return answers


class Later(Exception):
    """A request has to wait for others before it is tried again."""


class _Getter:
    """Gets the answers that the cache does not hold."""

    def __init__(self, cache: Cache, api: Api, settings: Settings, usage: Usage) -> None:
        self.cache, self.api, self.settings, self.usage = cache, api, settings, usage
        self.rejected: dict[str, Answer] = {}
        self.unanswered: Counter[str] = Counter()
        self.given_up = 0
        self.failures_in_a_row = 0
        self.stop: InputError | None = None

    def get(self, requests: Sequence[Request], what: str, *, batch: bool) -> dict[str, Answer]:
        for request in requests:
            price_of(self.api, request.model)
        misses = list(requests)
        with progress(what, len(misses)) as advance:
            while misses:
                _, batched = self.cache.held(request.key for request in misses)
                if batched or batch:  # an answer that a batch is paid for is waited for, whatever the params say now
                    chosen = misses if batch else [request for request in misses if request.key in batched]
                    self._by_batch(chosen, advance)
                else:
                    asyncio.run(self._online(misses, advance))
                done = self.cache.answers(request.key for request in misses).keys() | self.rejected.keys()
                misses = [request for request in misses if request.key not in done]
                if misses and (self.stop or self.unanswered):
                    self._give_up(len(requests), len(misses))
        return self.cache.answers(request.key for request in requests) | self.rejected

    def _give_up(self, wanted: int, missing: int) -> None:
        kept = f"{wanted - missing - self.given_up} of {wanted} answers are kept in {CACHE}"
        if self.stop:
            raise InputError(f"{self.stop}; {kept}") from None
        names = ", ".join(f"{name} {count}" for name, count in self.unanswered.most_common())
        raise InputError(
            f"{missing} requests got no answer in {self.settings.tries} tries each ({names}); {kept}; "
            "run again for the rest"
        )

    def _by_batch(self, requests: Sequence[Request], advance: Advance) -> None:
        from .batch import through_batches
        from .client import Stop

        try:
            self.rejected |= through_batches(requests, self.cache, self.api, self.settings, advance, self.usage)
        except Stop as stop:
            self.stop = stop

    async def _online(self, requests: Sequence[Request], advance: Advance) -> None:
        """Asks for each request that no other process is asking for, and waits for those that one is."""
        from .client import Client

        async with Client(self.settings, self._on_fault, self.cache.idempotency_key) as client:
            todo, held = deque(requests), []
            while todo and not self.stop:
                workers = [self._work(client, todo, held, advance) for _ in range(self.settings.concurrency)]
                await asyncio.gather(*workers)
                todo = deque(await self._wait_for_others(held, advance)) if not self.stop else deque()
                held.clear()

    async def _work(self, client: "Client", todo: deque[Request], held: list[Request], advance: Advance) -> None:
        from .client import Stop, Transient

        while todo and not self.stop:
            request = todo.popleft()
            price = price_of(self.api, request.model)
            ceiling = request.ceiling(price, batch=False)
            claim = self.cache.claim(request.key, ceiling, self.api.budget)
            if claim in ("answered", "held"):
                held.append(request)
                continue
            if claim == "wait":
                todo.appendleft(request)
                await asyncio.sleep(LOOK)
                continue
            if claim == "full":
                self._stop(client, self._over_budget(ceiling))
                return
            try:
                answer = await client.ask(request, price)
            except Transient as fault:
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
                    self._stop(client, InputError(f"{fault.name}: the server answers {what} any more"))
            except Later:
                self.cache.release(request.key)
                todo.appendleft(request)
                await asyncio.sleep(LOOK)
            except Stop as stop:
                self.cache.release(request.key)
                self._stop(client, stop)
            else:
                self.usage.asked += 1
                self.failures_in_a_row = 0
                if answer.rejected:
                    self.cache.release(request.key)
                    self.rejected[request.key] = answer
                else:
                    self.cache.store(request, answer)
                advance(1)

    async def _wait_for_others(self, held: Sequence[Request], advance: Advance) -> list[Request]:
        """Waits until no other process is getting any of `held`; returns those that one gave up or was killed over."""
        waiting = list(held)
        free: list[Request] = []
        while waiting:
            answered = self.cache.answers(request.key for request in waiting)
            self.usage.from_other_runs += len(answered)
            advance(len(answered))
            waiting = [request for request in waiting if request.key not in answered]
            claimed, batched = self.cache.held(request.key for request in waiting)
            free += [request for request in waiting if request.key not in claimed | batched]
            waiting = [request for request in waiting if request.key in claimed]
            if waiting:
                self.cache.bury_the_dead()
                await asyncio.sleep(LOOK)
        return free

    def _on_fault(self, request: Request, fault: "Transient") -> None:
        """Counts a failed try, and what it cost or may have cost.

        Raises:
            Stop: the budget does not hold another try.
            Later: it holds one only once other requests in flight turn out cheaper than reserved.
        """
        from .client import Stop

        self.usage.faults[fault.name] += 1
        if not fault.answer and not fault.billed:
            return
        ceiling = request.ceiling(price_of(self.api, request.model), batch=False)
        if fault.answer:
            self.cache.discard(request.key, fault.answer.cost)
        else:
            self.usage.uncertain += 1
            self.cache.uncertain(ceiling)
        if self.cache.spent() + ceiling > self.api.budget:
            raise Stop(str(self._over_budget(ceiling)))
        if self.cache.spent() + self.cache.reserved() > self.api.budget:
            raise Later

    def _over_budget(self, ceiling: float) -> InputError:
        return InputError(
            f"params.yaml: api.budget: {self.api.budget:.4f} USD: {self.cache.spent():.4f} are spent, and the next "
            f"request may cost {ceiling:.4f}; raise the budget to go on"
        )

    def _stop(self, client: "Client", why: InputError) -> None:
        self.stop = self.stop or why
        client.stop()
