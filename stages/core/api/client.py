"""The HTTP client: the openai package for the server in the environment, and what its responses hold.

Retries of the package are off: it does not tell faults that cost money from faults that don't, retries an exhausted
quota for nothing, and never ends an answer that drips in byte by byte.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
import openai

from .cache import Cache
from .chat import Answer, Stop, Transient, cost, most_tokens
from .section import Api, Price
from .settings import Settings, redact
from .spend import Usage

AnyClient = TypeVar("AnyClient", openai.OpenAI, openai.AsyncOpenAI)
LONGEST_BACKOFF = 30.0  # seconds


@dataclass
class Asker:
    """What asking takes, online or by batch. `advance` moves the progress bar on by so many answers; `rejected`:
    answers that say that the server refused the request itself, by key."""

    cache: Cache
    api: Api
    settings: Settings
    usage: Usage
    advance: Callable[[int], None]
    rejected: dict[str, Answer]


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
