"""The cache of paid answers and the ledger of what was spent: a sqlite file that a killed process leaves whole.

One process asks at a time; others wait, and then find its answers here. Before a request is sent, it is claimed in one
transaction with the reservation of its ceiling in the budget; its answer is stored in one transaction with its cost. A
claim that is found when nobody asks was left by a killed process. What that one had in flight may or may not be billed:
it counts as spent at its ceiling, and is sent again with the same Idempotency-Key.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ..run.errors import InputError
from .chat import Answer

CACHE = Path(".cache/labels")
FILE = CACHE / "answers.sqlite"
VERSION = 1
# discarded: how many answers to a request were thrown away, which are paid for and are no answers; `last`: the last of
# them, once the request has had all its tries.
TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, body_bytes INTEGER NOT NULL,
    answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS discarded (key TEXT PRIMARY KEY, answers INTEGER NOT NULL, last TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, reserved REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, remote TEXT, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_items (key TEXT PRIMARY KEY, batch TEXT NOT NULL, reserved REAL NOT NULL,
    model TEXT NOT NULL, body_bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (id INTEGER PRIMARY KEY CHECK (id = 0), spent REAL NOT NULL, uncertain REAL NOT NULL,
    uncertain_requests INTEGER NOT NULL);
INSERT OR IGNORE INTO ledger VALUES (0, 0, 0, 0);
"""
ANSWERED = "SELECT key, answer FROM answers UNION ALL SELECT key, last FROM discarded WHERE last IS NOT NULL"
UNCERTAIN = "UPDATE ledger SET uncertain = uncertain + ?, uncertain_requests = uncertain_requests + ?"


class Cache:
    """The answer cache, open for one process; a context manager.

    Raises:
        InputError: the file is no sqlite file, or one of another version.
    """

    def __init__(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(FILE, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
            with self.transaction() as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version in (0, VERSION):
                    for statement in TABLES.split(";"):
                        db.execute(statement)
                if version == 0:
                    db.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{FILE}: not a usable answer cache ({error}); as it may hold paid answers, move it elsewhere"
            ) from error
        if version not in (0, VERSION):
            raise InputError(f"{FILE}: found version {version}, wanted {VERSION}; move it away or use the newer code")

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within the block no other process asks; requests that a killed one or an error left in flight are counted."""
        with FileLock(CACHE / "asking.lock"):
            self._settle()
            try:
                yield
            finally:
                self._settle()

    def _settle(self) -> None:
        """Counts what is claimed as spent at its ceiling, and frees it."""
        with self.transaction() as db:
            found = db.execute("SELECT coalesce(sum(reserved), 0.0), count(*) FROM claims").fetchone()
            db.execute(UNCERTAIN, found)
            db.execute("DELETE FROM claims")

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A write transaction, whole or not at all; other processes wait for it. `durable`: it outlives a power cut."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def answers(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are kept, by key; for requests that had all their tries in vain, the last unusable one."""
        query = f"SELECT key, answer FROM ({ANSWERED}) WHERE key IN (SELECT value FROM json_each(?))"
        rows = self._db.execute(query, (json.dumps([*keys]),))
        return {key: Answer.model_validate_json(answer) for key, answer in rows}

    def claim(self, key: str, ceiling: float) -> None:
        """Claims one request for this process and reserves `ceiling` US dollars."""
        with self.transaction(durable=False) as db:
            db.execute("INSERT INTO claims VALUES (?, '', ?)", (key, ceiling))

    def batched(self) -> set[str]:
        """The keys of all requests that wait in a batch."""
        return {key for (key,) in self._db.execute("SELECT key FROM batch_items")}

    @staticmethod
    def keep(db: sqlite3.Connection, key: str, model: str, body_bytes: int, answer: Answer) -> None:
        """Within a transaction: stores a paid answer, adds its cost to what was spent and gives up the claim."""
        db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, model, body_bytes, answer.model_dump_json()))
        db.execute("UPDATE ledger SET spent = spent + ?", (answer.cost,))
        db.execute("DELETE FROM claims WHERE key = ?", (key,))

    @staticmethod
    def throw_away(db: sqlite3.Connection, key: str, cost: float) -> None:
        """Within a transaction: counts an unusable answer and adds its cost to what was spent."""
        query = "INSERT INTO discarded VALUES (?, 1, NULL) ON CONFLICT DO UPDATE SET answers = answers + 1, last = NULL"
        db.execute(query, (key,))
        db.execute("UPDATE ledger SET spent = spent + ?", (cost,))

    def idempotency_key(self, key: str) -> str:
        """The Idempotency-Key of a request: the same at every try, until an answer is thrown away, then a new one."""
        found = self._db.execute("SELECT answers FROM discarded WHERE key = ?", (key,)).fetchone()
        return f"{key}-{found[0]}" if found else key

    def give_up(self, key: str, last: Answer) -> None:
        """Notes that a request has had all its tries, none with a usable answer, and gives up the claim."""
        with self.transaction() as db:
            db.execute("UPDATE discarded SET last = ? WHERE key = ?", (last.model_dump_json(), key))
            db.execute("DELETE FROM claims WHERE key = ?", (key,))

    def forget(self, keys: Iterable[str]) -> None:
        """Drops what is kept for requests, so that they are asked again; what was spent stays spent."""
        with self.transaction() as db:
            for key in keys:
                self.throw_away(db, key, 0.0)
                db.execute("DELETE FROM answers WHERE key = ?", (key,))

    def release(self, key: str) -> None:
        """Gives up a claim that cost nothing."""
        self._db.execute("DELETE FROM claims WHERE key = ?", (key,))

    def uncertain(self, ceiling: float) -> None:
        """Notes a try whose answer never arrived: the provider may bill it, so it counts at its ceiling."""
        with self.transaction() as db:
            db.execute(UNCERTAIN, (ceiling, 1))

    def spent(self) -> float:
        """US dollars spent so far, by whichever stage, uncertain tries at their ceiling."""
        return self._db.execute("SELECT spent + uncertain FROM ledger").fetchone()[0]

    def reserved(self) -> float:
        """US dollars reserved for requests in flight and in batches."""
        query = "SELECT reserved FROM claims UNION ALL SELECT reserved FROM batch_items"
        return self._db.execute(f"SELECT coalesce(sum(reserved), 0.0) FROM ({query})").fetchone()[0]

    def typical(self, model: str) -> tuple[float, float] | None:
        """What `model`'s stored answers took: input tokens a byte of the body, and output tokens an answer."""
        query = """SELECT sum(answer ->> 'prompt_tokens') * 1.0 / sum(body_bytes), avg(answer ->> 'completion_tokens')
            FROM answers WHERE model = ? AND answer ->> 'estimated' = 0"""
        found = self._db.execute(query, (model,)).fetchone()
        return None if found[0] is None else (found[0], found[1])
