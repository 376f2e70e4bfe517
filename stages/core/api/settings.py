"""Settings of the API client from the environment. They change no answer, so they are no params.

OPENAI_API_KEY, OPENAI_BASE_URL: key and address of the server (no address: OpenAI itself).
LABELS_CONCURRENCY: requests in flight.
LABELS_TIMEOUT: seconds for a whole answer.
LABELS_TRIES: tries for a request. LABELS_BACKOFF: most seconds of the first wait, doubled after each try up to 30 s.
LABELS_LONGEST_WAIT: most seconds of a Retry-After that are waited; a longer one stops the run.
LABELS_POLL: seconds between looks at a batch.
LABELS_PAY_AGAIN: 1 asks even for what dvc.lock says was paid for before (see spend.py).
LABELS_ASK_AGAIN: 1 asks once more for rows in quarantine, whose kept answers can't be used. For one command, not for
good: every run with it asks again.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ..run.errors import InputError

SHORT = 8  # a secret of fewer characters is a stand-in for a local server, and a piece of ordinary words


@dataclass(frozen=True)
class Settings:
    """What LABELS_* variables set; the defaults suit a paid API."""

    concurrency: int = 16
    timeout: float = 120.0
    tries: int = 10
    backoff: float = 1.0
    longest_wait: float = 120.0
    poll: float = 30.0


def read_settings() -> Settings:
    """The settings: defaults, each replaced by its LABELS_* variable.

    Raises:
        InputError: a variable is no positive number (a whole one for LABELS_CONCURRENCY and LABELS_TRIES).
    """
    values: dict[str, int | float] = {}
    for name, default in vars(Settings()).items():
        variable = f"LABELS_{name.upper()}"
        kind = type(default)
        try:
            values[name] = kind(os.environ.get(variable, default))
        except ValueError:
            values[name] = 0
        if not 0 < values[name] < float("inf"):
            wanted = "a whole number" if kind is int else "a number"
            raise InputError(f"environment: {variable}: found {os.environ[variable]!r}, wanted {wanted} above 0")
    return Settings(**values)  # type: ignore[arg-type]


def switched_on(variable: Literal["LABELS_PAY_AGAIN", "LABELS_ASK_AGAIN"]) -> bool:
    """Whether a switch in the environment is 1.

    Raises:
        InputError: it is neither 0 nor 1.
    """
    value = os.environ.get(variable, "0")
    if value not in ("0", "1"):
        raise InputError(f"environment: {variable}: found {value!r}, wanted 1, or 0 or no such variable")
    return value == "1"


def check_key(misses: int) -> None:
    """Refuses to ask without a usable key.

    Raises:
        InputError: OPENAI_API_KEY is missing or holds what can't stand in an HTTP header; the key is not shown.
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise InputError(
            f"environment: OPENAI_API_KEY: not set, and {misses} requests have no cached answer; nothing was asked or "
            "spent. Set it (to any word, for a server of your own that wants none), or set labels.backend: local"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            "environment: OPENAI_API_KEY: holds a space, a line break or another sign that no key has; "
            "wanted the key alone (it is not shown here); nothing was asked or spent"
        )


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` without the API key and without a password of the address, which servers quote in messages and answers.

    Also replaces lone surrogates, which no file can hold.
    """
    secrets = [environment.get("OPENAI_API_KEY", ""), urlsplit(environment.get("OPENAI_BASE_URL", "")).password or ""]
    for secret in secrets:
        if len(secret) >= SHORT:
            text = text.replace(secret, "[secret]")
    return text.encode("utf-8", "replace").decode("utf-8")
