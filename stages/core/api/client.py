"""The HTTP client: sends one request through the openai package, and gives every fault a name.

The client's own retries are off: it does not tell faults that cost money from faults that don't, retries an exhausted
quota for nothing, and never ends an answer that drips in byte by byte. Each request carries an Idempotency-Key, so that
a server which honours it bills a request that is sent again only once; after an unusable answer it is a new one.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from .chat import Answer, Request, Stop, Transient, cost, most_tokens, unusable
from .section import Price
from .settings import Settings, redact

AnyClient = TypeVar("AnyClient", openai.OpenAI, openai.AsyncOpenAI)
LONGEST_BACKOFF = 30.0  # seconds


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


class Client:
    """Asks one server. `on_fault` hears of every failed try; `idempotency_key` is given a request's key."""

    def __init__(
        self,
        settings: Settings,
        on_fault: Callable[[Request, Transient], None],
        idempotency_key: Callable[[str], str],
    ) -> None:
        self._settings, self._on_fault, self._idempotency_key = settings, on_fault, idempotency_key
        self.openai = connect(openai.AsyncOpenAI, settings)
        self._quiet_until = 0.0  # a server that says when to come back says it to all
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Lets requests in flight end, and starts no further try."""
        self._stopping.set()

    async def ask(self, request: Request, price: Price) -> Answer:
        """The answer, after as many tries as the settings allow; one with `rejected` if the server refuses the request.

        Raises:
            Transient: the last try's fault.
            Stop: asking on is of no use.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(self._settings.tries),
            wait=self._wait,
            after=self._tell,
            sleep=self._sleep,
            reraise=True,
        )
        return await retrying(self._try, request, price)

    async def _try(self, request: Request, price: Price) -> Answer:
        try:
            while (rest := self._quiet_until - time.monotonic()) > 0:
                await self._sleep(rest)
            start = time.monotonic()
            # The client's own limit is for each read; this one is for the whole answer.
            async with asyncio.timeout(self._settings.timeout):
                found = await self.openai.chat.completions.with_raw_response.create(
                    **request.body, extra_headers={"Idempotency-Key": self._idempotency_key(request.key)}
                )
            latency = time.monotonic() - start
            body, size = body_of(found.content), len(request.canonical)
            answer = answer_of(body, request.model, size, price, batch=False, latency=latency)
            if fault := unusable(answer):
                raise Transient(fault, answer=answer)
            return answer
        except openai.APIStatusError as error:
            if (rejected := self.judge_status(error)) is None:
                raise Transient("server_error") from None
            return Answer(model=request.model, rejected=rejected)  # it costs nothing and is not kept
        except (TimeoutError, openai.APITimeoutError):
            raise Transient("timeout", billed=True) from None
        except openai.APIConnectionError as error:
            refused = isinstance(error.__cause__, httpx2.ConnectError | httpx2.UnsupportedProtocol)
            raise Transient("no_connection" if refused else "connection_cut", billed=not refused) from None
        except (httpx2.HTTPError, openai.OpenAIError):
            raise Transient("broken_body", billed=True) from None

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
            raise Stop("stopped") from None

    def judge_status(self, error: openai.APIStatusError) -> str | None:
        """The server's words if it refuses this one request; None if another try may succeed.

        Raises:
            Transient: the server asks to wait a while.
            Stop: asking on is of no use.
        """
        status, words = error.status_code, redact(error.message)[:300]
        if status == 429:
            if "insufficient_quota" in (error.code, error.type):
                raise Stop(f"insufficient_quota: the account is empty ({words}); top it up and run again") from None
            wait = retry_after(error.response.headers)
            if wait is not None and wait > self._settings.longest_wait:
                raise Stop(
                    f"rate_limit: the server asks to wait {wait:.0f} s, more than LABELS_LONGEST_WAIT "
                    f"({self._settings.longest_wait:.0f} s); run again later"
                ) from None
            if wait is not None:
                self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
            raise Transient("rate_limit", wait=wait) from None
        if status in (401, 403):
            raise Stop(f"wrong_key: HTTP {status}: {words}; check OPENAI_API_KEY and OPENAI_BASE_URL") from None
        if status == 404:
            raise Stop(
                f"not_found: HTTP 404: {words}; check OPENAI_BASE_URL and the teacher's model in params.yaml"
            ) from None
        if status < 400:
            raise Stop(f"redirect: HTTP {status}; check OPENAI_BASE_URL") from None
        return None if status in (408, 409) or status >= 500 else f"HTTP {status}: {words}"

    def _wait(self, state: RetryCallState) -> float:
        wait = _fault(state).wait
        backoff = wait_random_exponential(multiplier=self._settings.backoff, max=LONGEST_BACKOFF)
        return backoff(state) if wait is None else wait

    def _tell(self, state: RetryCallState) -> None:
        self._on_fault(state.args[0], _fault(state))


def _fault(state: RetryCallState) -> Transient:
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, Transient)
    return fault


def body_of(content: bytes) -> dict[str, Any]:
    """The JSON object of a response with status 200.

    Raises:
        Transient: it is something else: the page of a proxy, or JSON cut short.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        if content.lstrip()[:1] == b"<":
            raise Transient("html_page") from None
        raise Transient("broken_body", billed=True) from None
    if not isinstance(body, dict):
        raise Transient("broken_body", billed=True)
    return body


def answer_of(body: dict[str, Any], sent: str, body_bytes: int, price: Price, *, batch: bool, latency: float) -> Answer:
    """The answer in a chat completion's body. Servers differ, so no field of the body is taken for granted.

    `sent`, `body_bytes`: the model's name and the length of the request.

    Raises:
        Transient: it is an error with status 200, as gateways pass them on, or no completion.
    """
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise Transient("server_error" if body.get("error") else "broken_body", billed="error" not in body)
    choice = _object(choices[0] if choices else None)
    message = _object(choice.get("message"))
    content = _text(message.get("content"))
    usage = _object(body.get("usage"))
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    counted = prompt is not None and completion is not None
    if prompt is None or completion is None:  # rather too many than too few
        prompt, completion = most_tokens(body_bytes), most_tokens(len(content.encode()))
    name = _text(body.get("model")) or sent
    return Answer(
        model=name.rsplit("/", 1)[-1] if name.startswith("/") else name,  # no folder of some machine in a label
        choices=len(choices),
        content=content,
        refusal=_text(message.get("refusal")),
        finish_reason=_text(choice.get("finish_reason")),
        prompt_tokens=prompt,
        completion_tokens=completion,
        estimated=not counted,
        cost=cost(price, prompt, completion, batch=batch),
        latency=round(latency, 4),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _text(value: Any) -> str:
    return redact(value) if isinstance(value, str) else ""


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that a Retry-After header asks to wait (in milliseconds, seconds or as a date); None without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(ValueError):
            if 0 <= (seconds := float(headers.get(name, "")) / unit) < float("inf"):
                return seconds
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None
