"""The Batch API: submitted once, waited for, resumed after a restart at any point."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from stages.core.api.cache import Cache
from stages.core.data.tables import LABELS, read_table
from stages.labels import main
from tests.labellers import world
from tests.labellers.checks import OUTPUT, ROOT, assert_consistent, last_run, metrics
from tests.labellers.server import Asked, Reply, Server, completion, is_repair, label_of, teacher
from tests.pipeline import tiny


class Batches:
    """A Batch API. `looks`: how often a batch is found unfinished; `faults`: what to do at a call, by its name."""

    def __init__(self, looks: int = 1) -> None:
        self.looks = looks
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, list[Reply | str]] = {}
        self.answered: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Reply:
        path = asked.path.split("?")[0].removeprefix("/v1/")
        for name, method, pattern in [
            ("upload", "POST", "files"),
            ("content", "GET", r"files/(.+)/content"),
            ("create", "POST", "batches"),
            ("list", "GET", "batches"),
            ("retrieve", "GET", r"batches/(.+)"),
        ]:
            if asked.method == method and (found := re.fullmatch(pattern, path)):
                self.calls[name] += 1
                fault = self.faults[name].pop(0) if self.faults.get(name) else None
                if isinstance(fault, Reply):
                    return fault
                content = getattr(self, name)(asked, *found.groups())
                return Reply(content, cut=0) if fault == "do it and hang up" else Reply(content)
        return Reply({"error": {"message": f"no {asked.method} {path}"}}, 404)

    def upload(self, asked: Asked) -> dict:
        name = f"file-{len(self.files)}"
        body = asked.content.split(b"\r\n\r\n")
        self.files[name] = next(part for part in body if part.startswith(b'{"custom_id"')).rsplit(b"\r\n--", 1)[0]
        return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}

    def create(self, asked: Asked) -> dict:
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {"id": name, "object": "batch", "status": "in_progress", "looks": self.looks, **asked.body}
        return self.batches[name]

    def list(self, _: Asked) -> dict:
        return {"object": "list", "data": list(self.batches.values()), "has_more": False}

    def retrieve(self, _: Asked, name: str) -> dict:
        batch = self.batches[name]
        batch["looks"] -= 1
        if batch["looks"] < 0 and batch["status"] == "in_progress":
            self.finish(batch)
        return batch

    def content(self, _: Asked, name: str) -> bytes:
        return self.files[name]

    def finish(self, batch: dict) -> None:
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        results = [json.dumps(self.result(line)) for line in reversed(lines)]  # results come in any order
        self.files[f"{batch['id']}-out"] = "\n".join(results).encode()
        batch |= {"status": "completed", "output_file_id": f"{batch['id']}-out"}

    def result(self, line: dict) -> dict:
        self.answered[line["custom_id"]] += 1
        content = completion(json.dumps(label_of(line["body"])))
        return {
            "id": "r",
            "custom_id": line["custom_id"],
            "response": {"status_code": 200, "body": content},
            "error": None,
        }


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch):
    script = Batches()
    with Server(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield script


def test_a_batch_is_submitted_once_waited_for_and_half_the_price(batches: Batches):
    batches.looks = 3
    world.write_world(20, backend="openai", way="batch")
    main(["geography"])
    assert len(read_table(OUTPUT, LABELS)) == 20
    assert batches.calls == {"upload": 1, "create": 1, "retrieve": 4, "content": 1}
    assert metrics()["cost_usd"] == pytest.approx(20 * 0.0011 / 2)
    assert last_run()["asked"] == 20
    assert_consistent(20)
    main(["geography"])
    world.write_world(20, backend="openai", way="online")
    main(["geography"])  # the same answers serve both ways
    assert batches.calls["create"] == 1


def test_only_what_is_missing_is_submitted(batches: Batches):
    world.write_world(5, backend="openai", way="batch")
    main(["geography"])
    world.write_world(8, backend="openai", way="batch")
    main(["geography"])
    assert [len(batches.files[f"file-{n}"].splitlines()) for n in (0, 2)] == [5, 3]
    assert set(batches.answered.values()) == {1}


def run_until(batches: Batches, url: str, call: str) -> None:
    """The stage as a process of its own, killed once the server has seen `call`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": url, "LABELS_POLL": "0.05"}
    run = subprocess.Popen([sys.executable, "-m", "stages.labels", "geography"], env=environment)
    deadline = time.monotonic() + tiny.LONGEST
    while not batches.calls[call] and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert batches.calls[call]


@pytest.mark.parametrize("call", ["upload", "create", "retrieve"])
def test_a_killed_run_goes_on_without_submitting_again(monkeypatch: pytest.MonkeyPatch, call: str):
    batches = Batches(looks=10**6)
    # The server takes the call but its answer is slow, so the kill falls before the client knows.
    slow = {"upload": 5.0, "create": 5.0, "retrieve": 0.0}
    with Server(lambda asked: batches(asked)) as server:
        original = server.script

        def script(asked: Asked) -> Reply:
            reply = original(asked)
            name = {"POST /v1/files": "upload", "POST /v1/batches": "create"}.get(f"{asked.method} {asked.path}")
            return Reply(reply.content, reply.status, wait=slow[call]) if name == call else reply

        server.script = script
        world.write_world(6, backend="openai", way="batch")
        run_until(batches, server.url, call)
        server.script = original
        batches.looks = 0
        for batch in batches.batches.values():
            batch["looks"] = 0
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main(["geography"])
    assert batches.calls["create"] == 1 and set(batches.answered.values()) == {1}
    assert len(read_table(OUTPUT, LABELS)) == 6
    assert_consistent(6)


@pytest.mark.parametrize(
    "fault",
    ["do it and hang up", Reply({"error": {"message": "oops"}}, 500), Reply({"error": {"message": "slow"}}, 429)],
)
def test_an_unclear_submission_is_looked_up_before_it_is_repeated(batches: Batches, fault: Reply | str):
    batches.faults = {name: [fault] for name in ("upload", "create", "retrieve", "content", "list")}
    world.write_world(4, backend="openai", way="batch")
    main(["geography"])
    assert len(batches.batches) == 1 and set(batches.answered.values()) == {1}
    assert len(read_table(OUTPUT, LABELS)) == 4


def test_what_a_batch_leaves_unanswered_goes_into_another(batches: Batches):
    def result(line: dict) -> dict:
        number = len(batches.answered)
        found = Batches.result(batches, line)
        if len(batches.batches) == 1 and number % 3:
            response = {"status_code": 500, "body": {"error": {}}} if number % 3 == 1 else None
            return found | {"response": response, "error": {"code": "batch_expired"}}
        return found

    batches.result = result
    world.write_world(9, backend="openai", way="batch")
    main(["geography"])
    assert len(batches.batches) == 2 and len(read_table(OUTPUT, LABELS)) == 9
    assert_consistent(9)


def test_rejected_requests_and_wrong_answers_in_a_batch(batches: Batches):
    def result(line: dict) -> dict:
        found = Batches.result(batches, line)
        if "'Paris .'" in line["body"]["messages"][1]["content"]:
            found["response"] = {"status_code": 400, "body": {"error": {"message": "too long"}}}
        elif "can't be used" not in line["body"]["messages"][-1]["content"]:
            found["response"]["body"] = completion('{"summary": "hm"}')
        return found

    batches.result = result
    world.write_world(6, backend="openai", way="batch", max_quarantined=0.9)
    main(["geography"])
    assert metrics()["faults"]["rejected"] == metrics()["quarantined"] > 0
    assert metrics()["repairs"] == len(read_table(OUTPUT, LABELS)) and len(batches.batches) == 2


def test_what_a_batch_answers_without_json_goes_into_another(batches: Batches):
    def result(line: dict) -> dict:
        found = Batches.result(batches, line)
        shift, tries = line["body"]["messages"][1]["content"], batches.answered[line["custom_id"]]
        if ("'the7'" in shift and not is_repair_of(line)) or (tries == 1 and "'the1" in shift):
            found["response"]["body"] = completion("")
        return found

    def is_repair_of(line: dict) -> bool:
        return "can't be used" in line["body"]["messages"][-1]["content"]

    batches.result = result
    world.write_world(12, backend="openai", way="batch")
    main(["geography"])
    assert len(read_table(OUTPUT, LABELS)) == 12 and metrics()["repairs"] == 1
    assert [len(batches.files[f"file-{n}"].splitlines()) for n in (0, 2, 4, 6)] == [12, 4, 1, 1]
    assert last_run()["faults"] == {"empty_answer": 6}
    assert_consistent(12, discarded=6 * 0.0011 / 2)


def test_a_batch_that_the_budget_does_not_hold_is_not_submitted(batches: Batches):
    world.write_world(20, backend="openai", way="batch", api={"budget": 0.005})
    with pytest.raises(ValueError, match=r"api.budget: 0.0050 USD: a batch of 20 requests may cost .* 0 of 20 answers"):
        main(["geography"])
    assert not batches.batches and not batches.files
    assert_consistent(0)


@pytest.mark.parametrize("call", ["create", "retrieve"])
def test_a_refused_or_failed_batch_says_why_and_frees_its_requests(batches: Batches, call: str):
    world.write_world(3, backend="openai", way="batch")
    failed = {"id": "batch-0", "object": "batch", "status": "failed", "errors": {"data": [{"message": "bad line 1"}]}}
    batches.faults = {call: [Reply({"error": {"message": "bad line 1"}}, 400) if call == "create" else Reply(failed)]}
    with pytest.raises(ValueError, match=r"batch: .*bad line 1"):
        main(["geography"])
    assert_consistent(0)


def test_online_waits_for_a_batch_that_is_already_paid(batches: Batches, monkeypatch: pytest.MonkeyPatch):
    world.write_world(6, backend="openai", way="batch")
    batches.looks = 10**6
    run_until(batches, os.environ["OPENAI_BASE_URL"], "retrieve")
    batches.batches["batch-0"]["looks"] = 2
    world.write_world(8, backend="openai", way="online")
    chat = Counter()

    def script(asked: Asked) -> Reply:
        if asked.path.endswith("chat/completions"):
            chat[asked.key] += 1
            assert not is_repair(asked)
            return teacher(asked)
        return batches(asked)

    with Server(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main(["geography"])
    assert len(chat) == 2 and set(batches.answered.values()) == {1} and len(read_table(OUTPUT, LABELS)) == 8


def test_a_batch_of_an_earlier_cache_is_not_adopted(batches: Batches):
    batches.batches["batch-x"] = {
        "id": "batch-x",
        "object": "batch",
        "status": "completed",
        "metadata": None,
        "looks": 0,
    }
    batches.batches["batch-y"] = batches.batches["batch-x"] | {"metadata": {"labels_batch": uuid.uuid4().hex}}
    with Cache() as cache, cache.transaction() as db:
        db.execute("INSERT INTO batches VALUES ('killed', NULL, 'preparing')")
        db.execute("INSERT INTO batch_items VALUES ('k', 'killed', 1.0, 'tiny', 10)")
    world.write_world(2, backend="openai", way="batch")
    main(["geography"])
    assert len(batches.batches) == 3 and Path(".cache/labels/asking.lock").exists()
    assert_consistent(2)
