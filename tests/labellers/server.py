"""A scripted OpenAI-compatible server on loopback that misbehaves on purpose.

A script says for each request what to do; `Server` counts what it sent whole, because that is what a provider bills.
"""

import asyncio
import json
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stages.core.run.seeds import keyed_fraction


@dataclass
class Asked:
    """One request as the server sees it."""

    path: str
    method: str
    headers: dict[str, str]
    content: bytes
    tries: int  # of this request, this one included

    @property
    def key(self) -> str:
        return self.headers.get("idempotency-key", "")

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.content)


@dataclass
class Reply:
    """What to send. `seconds`: before it, or spread over its bytes; `cut`: only so many bytes, then hang up."""

    content: bytes | str | dict[str, Any] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    drip: float = 0.0
    cut: int | None = None


Script = Callable[[Asked], Reply]


class Server:
    """Runs `script` in a thread while it is entered."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.tries: Counter[str] = Counter()  # by request: an Idempotency-Key without what a new one has behind it
        self.billed: Counter[str] = Counter()  # completions sent whole, by Idempotency-Key
        self.in_flight = self.most_in_flight = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda *_: None)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *rest = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                key = headers.get("idempotency-key", "")
                request = key.partition("-")[0]
                self.tries[request] += 1
                asked = Asked(path, method, headers, content, self.tries[request])
                self.asked.append(asked)
                self.in_flight += 1
                self.most_in_flight = max(self.in_flight, self.most_in_flight)
                try:
                    whole = await self._reply(self.script(asked), asked, writer)
                finally:
                    self.in_flight -= 1
                if not whole:
                    break
        writer.close()

    async def _reply(self, reply: Reply, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        content = reply.content
        if isinstance(content, dict):
            content = json.dumps(content)
        content = content.encode() if isinstance(content, str) else content
        kind = "text/html" if content[:1] == b"<" else "application/json"
        headers = {"content-type": kind, "content-length": str(len(content))} | reply.headers
        head = f"HTTP/1.1 {reply.status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await asyncio.sleep(reply.wait)
        if reply.cut is not None:
            writer.write((head.encode() + b"\r\n" + content)[: reply.cut])
            await writer.drain()
            return False
        writer.write(head.encode() + b"\r\n")
        for byte in range(len(content) if reply.drip else 0):
            writer.write(content[byte : byte + 1])
            await writer.drain()
            await asyncio.sleep(reply.drip / len(content))
        writer.write(b"" if reply.drip else content)
        await writer.drain()
        if isinstance(reply.content, dict) and "choices" in reply.content:
            self.billed[asked.key] += 1
        return True


def completion(content: str | None, **changes: Any) -> dict[str, Any]:
    """A chat completion; keywords replace fields of the choice, of the message or of the whole."""
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    choice = {"index": 0, "message": message, "finish_reason": changes.pop("finish_reason", "stop")}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny-2",
        "choices": [choice],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
    } | changes


def label_of(body: dict[str, Any]) -> dict[str, Any]:
    """What a good teacher says about a shift of tests.labellers.world: it reads the continuations."""
    shift = next(
        message["content"] for message in reversed(body["messages"]) if "Continuation before" in message["content"]
    )
    before = re.findall(r"before: '(.*?) ?\.?'", shift)[0]
    after = re.findall(r"after: '(.*?) ?\.?'", shift)[-1]
    words = {"summary": f"It leaves {before} for {after}.", "moved_from": before, "moved_to": after}
    return words | {"domain": "geography", "confidence": 0.9}


def teacher(asked: Asked) -> Reply:
    """A teacher that is always right."""
    return Reply(completion(json.dumps(label_of(asked.body))))


def is_repair(asked: Asked) -> bool:
    """Whether the request shows the model a wrong answer of its own."""
    return "can't be used" in asked.body["messages"][-1]["content"]


def stormy(share: float, inner: Script = teacher, hang: float = 2.0) -> Script:
    """Fails a share of all tries, in ten ways, each try of each request drawn anew; `hang` in seconds."""

    def script(asked: Asked) -> Reply:
        drawn = keyed_fraction(0, asked.key, asked.tries)
        if drawn >= share:
            return inner(asked)
        whole = inner(asked)
        faults = [
            Reply({"error": {"message": "slow down"}}, 429, {"retry-after": "0.05"}),
            Reply({"error": {"message": "slow down"}}, 429),
            Reply({"error": {"message": "oops"}}, 500),
            Reply("<html>bad gateway</html>", 502),
            Reply("<!doctype html><html>please log in</html>"),
            Reply('{"id": "c", "choi'),
            Reply(whole.content, cut=0),
            Reply(whole.content, cut=150),
            Reply({"error": {"message": "upstream"}}),
            Reply({"error": {"message": "overloaded"}}, 503, {"retry-after-ms": "20"}),
        ]
        if drawn < share / 200:
            return Reply(whole.content, drip=hang) if drawn < share / 400 else Reply(whole.content, cut=0, wait=hang)
        return faults[int(drawn / share * len(faults))]

    return script


def mute(share: float, reply: Reply, inner: Script = teacher) -> Script:
    """Answers a share of all tries with `reply`, which is paid for; each try of each request drawn anew."""
    return lambda asked: reply if keyed_fraction(1, asked.content.decode(), asked.tries) < share else inner(asked)


def sequence(*replies: Reply, inner: Script = teacher) -> Script:
    """The n-th try of each request gets the n-th reply, later ones what `inner` says."""

    def script(asked: Asked) -> Reply:
        return replies[asked.tries - 1] if asked.tries <= len(replies) else inner(asked)

    return script


def by_key(server: Server) -> dict[str, list[Asked]]:
    """All tries by Idempotency-Key."""
    found: dict[str, list[Asked]] = defaultdict(list)
    for asked in server.asked:
        found[asked.key].append(asked)
    return found
