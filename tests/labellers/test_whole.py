"""The whole: many rows, a server that fails, kill -9, two runs at once, and once more from the cache."""

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

from stages.core.api.cache import Cache
from stages.core.data.tables import LABELS, read_table
from stages.labels import main
from tests.labellers import world
from tests.labellers.checks import OUTPUT, QUARANTINE, ROOT, Serve, assert_consistent, last_run
from tests.labellers.server import Reply, completion, is_repair, stormy, teacher
from tests.pipeline import tiny


def stage(url: str, **environment: str) -> subprocess.Popen[str]:
    """The stage as its own process."""
    values = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": url} | environment
    command = [sys.executable, "-m", "stages.labels", "geography"]
    return subprocess.Popen(command, env=values, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def moody(asked):
    """Some answers are wrong at first, some for good: by what the row says, so that it is the same each time."""
    number = int(asked.body["messages"][1]["content"].split("'the")[1].split("'")[0])
    if number % 40 == 7 or (number % 10 == 3 and not is_repair(asked)):
        return Reply(completion('{"summary": "It moves."}'))
    return teacher(asked)


def test_2000_rows_through_a_storm_with_a_kill_in_the_middle(serve: Serve):
    rows = 2000
    world.write_world(rows, backend="openai")
    server = serve(stormy(0.3, moody))
    first = stage(server.url)
    while len(server.billed) < rows // 2 and first.poll() is None:
        time.sleep(0.01)
    first.kill()  # -9
    _, errors = first.communicate()
    assert not errors and not OUTPUT.exists()
    while server.in_flight:
        time.sleep(0.01)
    cut = dict(server.billed)
    second = stage(server.url)
    out, errors = second.communicate(timeout=tiny.LONGEST)
    assert second.returncode == 0 and not errors, errors

    labels, bad = read_table(OUTPUT, LABELS), pl.read_parquet(QUARANTINE)
    assert len(labels) + len(bad) == rows and not set(labels["prompt_id"]) & set(bad["prompt_id"])
    assert len(bad) == rows // 40 and set(bad["fault"]) == {"wrong_schema"}
    repairs = rows // 10 + rows // 40
    assert_consistent(rows + repairs)
    # A request is billed again only if it was in flight at the kill, and then its Idempotency-Key says so.
    twice = {key for key, times in server.billed.items() if times > 1}
    assert len(server.billed) == rows + repairs and len(twice) <= 16 and twice <= set(cut)
    assert f"{len(labels)} labels by openai, 50 quarantined" in out

    outputs = [OUTPUT, QUARANTINE, Path("data/labels/metrics/geography.json")]
    before = [path.read_bytes() for path in outputs]
    main(["geography"])
    assert last_run()["asked"] == 0 and [path.read_bytes() for path in outputs] == before


def test_two_runs_at_once_share_the_work(serve: Serve):
    world.write_world(150, backend="openai")
    server = serve(stormy(0.2))
    runs = [stage(server.url, LABELS_CONCURRENCY="4") for _ in range(2)]
    outputs = [run.communicate(timeout=tiny.LONGEST) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert set(server.billed.values()) == {1} and len(server.billed) == 150
    assert_consistent(150)


def test_a_run_takes_over_what_a_killed_one_held(serve: Serve):
    world.write_world(12, backend="openai")
    server = serve(lambda asked: Reply(teacher(asked).content, wait=0.3 if asked.tries == 1 else 0))
    killed = stage(server.url, LABELS_CONCURRENCY="6", LABELS_TIMEOUT="30")
    other = None
    while not server.asked:
        time.sleep(0.01)
    other = stage(server.url, LABELS_CONCURRENCY="6", LABELS_TIMEOUT="30")
    killed.kill()
    killed.communicate()
    _, errors = other.communicate(timeout=tiny.LONGEST)
    assert other.returncode == 0, errors
    assert_consistent(12)
    with Cache() as cache, cache.transaction() as db:
        (requests,) = db.execute("SELECT uncertain_requests FROM ledger").fetchone()
    assert 0 < requests <= 6
