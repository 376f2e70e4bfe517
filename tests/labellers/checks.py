"""What the tests of the backend look at after a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.core.api.cache import Cache
from tests.labellers.server import Script, Server

ROOT = Path(__file__).parents[2]
OUTPUT = Path("data/labels/geography.parquet")
QUARANTINE = Path("data/labels/quarantine/geography.parquet")
Serve = Callable[[Script], Server]


def last_run() -> dict[str, Any]:
    return json.loads(Path(".cache/labels/usage/geography.json").read_text())


def metrics() -> dict[str, Any]:
    return json.loads(Path("data/labels/metrics/geography.json").read_text())


def assert_consistent(answers: int, discarded: float = 0.0) -> None:
    """The cache holds these answers and nothing in flight; the ledger is their sum and what `discarded` ones cost."""
    with Cache() as cache, cache.transaction() as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM answers").fetchone() == (answers,)
        for table in ("claims", "batches", "batch_items"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        (paid,) = db.execute("SELECT coalesce(sum(answer ->> 'cost'), 0) FROM answers").fetchone()
        assert db.execute("SELECT spent FROM ledger").fetchone()[0] == pytest.approx(paid + discarded)
