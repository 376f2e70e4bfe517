"""Requests sent through the Batch API: half the price as a rule, up to a day of waiting.

What is submitted is noted in the answer cache before and after each step, so that a restart goes on where it stopped:

- preparing: noted, with the batch's own id, before anything is sent. After a restart the server's list says whether the
  batch was made (its metadata carries that id); if so it is adopted, if not its requests are free again.
- submitted: the server has it. Any process may wait for it and collect it; the cache takes each answer once.
"""

import json
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import openai

from .chat import Answer, Request, Stop, Transient, answer_of, unusable
from .client import LONGEST_BACKOFF, Asker, connect
from .settings import redact

MOST_REQUESTS = 50_000  # a batch, by OpenAI's limits
MOST_BYTES = 190_000_000
ROUNDS = 3  # requests that a batch leaves without a usable answer (it expired, the server failed) go into another one
URL = "/v1/chat/completions"
MARK = "labels_batch"
ENDED = ("completed", "expired", "cancelled", "failed")


@dataclass
class Batches(Asker):
    """Asks through the Batch API."""

    requests: dict[str, Request] = field(default_factory=dict)  # by key
    unusable: dict[str, Answer] = field(default_factory=dict)

    def ask(self, requests: Sequence[Request]) -> None:
        """Gets the answers and stores them.

        Raises:
            Stop: the budget does not hold a batch, the server fails it whole, or leaves requests unanswered.
        """
        self.requests = {request.key: request for request in requests}
        self.client = connect(openai.OpenAI, self.settings)
        self.patient = self.client.with_options(max_retries=self.settings.tries - 1)  # for calls that cost nothing
        try:
            with self.client:
                for _ in range(ROUNDS):
                    with self.cache.asking():  # waiting is done without it
                        self._recover()
                        for part in self._parts(self._free()):
                            self._submit(part)
                    self._wait()
                    if not self._free():
                        return
        except openai.OpenAIError as error:
            raise Stop(f"batch: {type(error).__name__}: {redact(str(error))[:300]}") from None
        for request in self._free():
            if last := self.unusable.get(request.key):
                self.cache.give_up(request.key, last)
        if free := self._free():
            raise Stop(f"{len(free)} requests got no answer in {ROUNDS} batches, which way: online does without")

    def _free(self) -> list[Request]:
        """Requests that have no answer, were not rejected and are in no batch."""
        done = self.cache.answers(self.requests).keys() | self.rejected.keys() | self.cache.batched()
        return [request for key, request in self.requests.items() if key not in done]

    @staticmethod
    def _parts(requests: Sequence[Request]) -> list[dict[str, bytes]]:
        """The requests cut into batches within the API's limits: by key, the lines of the batch's input file."""
        parts: list[dict[str, bytes]] = []
        size = 0
        for request in requests:
            asked = {"custom_id": request.key, "method": "POST", "url": URL, "body": request.body}
            line = json.dumps(asked, ensure_ascii=False).encode() + b"\n"
            if not parts or len(parts[-1]) == MOST_REQUESTS or size + len(line) > MOST_BYTES:
                parts.append({})
                size = 0
            parts[-1][request.key] = line
            size += len(line)
        return parts

    def _submit(self, lines: dict[str, bytes]) -> None:
        requests = [self.requests[key] for key in lines]
        ceilings = {request.key: request.ceiling(self.api, batch=True) for request in requests}
        identity = uuid.uuid4().hex
        with self.cache.transaction() as db:
            free = self.api.budget - self.cache.spent() - self.cache.reserved()
            if sum(ceilings.values()) > free:
                raise Stop(
                    f"params.yaml: api.budget: {self.api.budget:.4f} USD: a batch of {len(requests)} requests may cost "
                    f"{sum(ceilings.values()):.4f} and {max(free, 0):.4f} are left; raise the budget to go on"
                )
            db.execute("INSERT INTO batches VALUES (?, NULL, 'preparing')", (identity,))
            rows = [(r.key, identity, ceilings[r.key], r.model, len(r.canonical)) for r in requests]
            db.executemany("INSERT INTO batch_items VALUES (?, ?, ?, ?, ?)", rows)
        upload = self.patient.files.create(file=(f"{identity}.jsonl", b"".join(lines.values())), purpose="batch")
        self._note_submitted(identity, self._create(identity, upload.id))

    def _create(self, identity: str, file: str) -> str:
        """Makes the batch on the server, once: after an unclear fault its list is asked before it is made again."""
        for number in range(self.settings.tries):
            try:
                return self.client.batches.create(
                    input_file_id=file, endpoint=URL, completion_window="24h", metadata={MARK: identity},
                    extra_headers={"Idempotency-Key": identity},
                ).id  # fmt: skip
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    self._drop(identity)
                    raise Stop(f"batch: HTTP {error.status_code}: {redact(error.message)[:300]}") from None
            except openai.OpenAIError:
                pass
            time.sleep(min(self.settings.backoff * 2**number, LONGEST_BACKOFF))
            if remote := self._on_server().get(identity):
                return remote
        raise Stop("batch: the server does not say whether it took the batch")

    def _recover(self) -> None:
        """Adopts or frees the batches that a killed process was submitting."""
        query = "SELECT id FROM batches WHERE state = 'preparing'"
        with self.cache.transaction() as db:
            preparing = [identity for (identity,) in db.execute(query)]
        known = self._on_server() if preparing else {}
        for identity in preparing:
            if remote := known.get(identity):
                self._note_submitted(identity, remote)
            else:
                self._drop(identity)

    def _note_submitted(self, identity: str, remote: str) -> None:
        with self.cache.transaction() as db:
            db.execute("UPDATE batches SET remote = ?, state = 'submitted' WHERE id = ?", (remote, identity))

    def _on_server(self) -> dict[str, str]:
        """Batches on the server that this project made: the id in the cache to the id on the server."""
        found = self.patient.batches.list(limit=100)
        return {batch.metadata[MARK]: batch.id for batch in found if batch.metadata and MARK in batch.metadata}

    def _drop(self, identity: str) -> None:
        with self.cache.transaction() as db:
            db.execute("DELETE FROM batch_items WHERE batch = ?", (identity,))
            db.execute("DELETE FROM batches WHERE id = ?", (identity,))

    def _wait(self) -> None:
        """Waits until every batch that holds one of the requests has ended, and collects its answers."""
        while remaining := self._open():
            for identity, remote in remaining.items():
                batch = self.patient.batches.retrieve(remote)
                if batch.status in ENDED:
                    files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
                    texts = [self.patient.files.content(file).text for file in files]
                    self._collect(identity, [line for text in texts for line in text.splitlines()])
                    if batch.status == "failed":
                        errors = (batch.errors.data if batch.errors else None) or []
                        words = "; ".join(redact(error.message or "")[:200] for error in errors[:3])
                        raise Stop(f"batch: the server failed it whole: {words or 'without saying why'}")
            if self._open():
                time.sleep(self.settings.poll)

    def _open(self) -> dict[str, str]:
        with self.cache.transaction() as db:
            query = "SELECT DISTINCT b.id, b.remote, i.key FROM batches b JOIN batch_items i ON i.batch = b.id"
            rows = db.execute(query + " WHERE b.state = 'submitted' ORDER BY b.id").fetchall()
        return {identity: remote for identity, remote, key in rows if key in self.requests}

    def _collect(self, identity: str, lines: Sequence[str]) -> None:
        """Stores a batch's answers, whoever asked, and frees what it left unanswered, in one transaction."""
        with self.cache.transaction() as db:
            query = "SELECT key, model, body_bytes FROM batch_items WHERE batch = ?"
            asked = {key: (model, size) for key, model, size in db.execute(query, (identity,))}
            waiting = len(asked)
            for line in lines:
                key, status, body = _read(line)
                if key not in asked:
                    continue
                model, size = asked[key]
                if status == 200:
                    with suppress(Transient):  # no completion: unanswered
                        answer = answer_of(body, model, size, self.api.price_of(model), batch=True, latency=0.0)
                        if fault := unusable(answer):
                            self.cache.throw_away(db, key, answer.cost)
                            self.unusable[key] = answer
                            self.usage.faults[fault] += 1
                            continue
                        self.cache.keep(db, key, model, size, answer)
                        del asked[key]
                elif 400 <= status < 500 and status not in (408, 409, 429):
                    words = json.dumps(body, ensure_ascii=False)
                    self.rejected[key] = Answer(model=model, rejected=redact(f"HTTP {status}: {words}")[:300])
                    del asked[key]
            db.execute("DELETE FROM batch_items WHERE batch = ?", (identity,))
            db.execute("DELETE FROM batches WHERE id = ?", (identity,))
        self.usage.asked += waiting - len(asked)
        self.advance(waiting - len(asked))


def _read(line: str) -> tuple[str, int, dict[str, Any]]:
    """Key, HTTP status and body of a line of the batch's output; ("", 0, {}) of a line that holds no answer."""
    try:
        found = json.loads(line)
        return found["custom_id"], int(found["response"]["status_code"]), dict(found["response"]["body"])
    except (ValueError, TypeError, KeyError):
        return "", 0, {}
