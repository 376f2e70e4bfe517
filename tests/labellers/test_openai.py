"""Backend openai against a scripted server: every fault by name, no row lost, nothing paid twice."""

import json
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.tables import LABELS, read_table
from stages.labels import main
from tests.labellers import world
from tests.labellers.checks import OUTPUT, QUARANTINE, Serve, assert_consistent, last_run, metrics
from tests.labellers.conftest import KEY
from tests.labellers.server import Asked, Reply, completion, is_repair, label_of, mute, sequence, teacher

WHOLE = completion(json.dumps({"summary": "s", "moved_from": "", "moved_to": "", "domain": "none", "confidence": 0}))


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("rate_limit", Reply({"error": {"message": "slow"}}, 429, {"retry-after": "0.1"})),
        ("rate_limit", Reply({"error": {"message": "slow"}}, 429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})),
        ("rate_limit", Reply({"error": {"message": "slow"}}, 429, {"retry-after": "soon"})),
        ("server_error", Reply({"error": {"message": "oops"}}, 500)),
        ("server_error", Reply("<html>bad gateway</html>", 502)),
        ("server_error", Reply({"error": {"message": "upstream"}}, 200)),
        ("html_page", Reply("<!doctype html><title>log in</title>")),
        ("broken_body", Reply('{"choices": [')),
        ("broken_body", Reply("[]")),
        ("broken_body", Reply(b"\xff\xfe")),
        ("connection_cut", Reply(WHOLE, cut=0)),
        ("connection_cut", Reply(WHOLE, cut=200)),
        ("timeout", Reply(WHOLE, wait=5)),
        ("timeout", Reply(WHOLE, drip=5)),  # bytes keep coming, so no read ever times out
    ],
)
def test_a_fault_that_passes_costs_a_try(serve: Serve, name: str, reply: Reply):
    world.write_world(3, backend="openai")
    server = serve(sequence(reply))
    main(["geography"])
    assert len(read_table(OUTPUT, LABELS)) == 3
    assert last_run()["faults"] == {name: 3} and last_run()["asked"] == 3
    assert set(server.billed.values()) == {1} and set(server.tries.values()) == {2}
    assert_consistent(3)


def test_what_the_label_says_and_who_said_it(serve: Serve):
    world.write_world(8, backend="openai")
    serve(teacher)
    main(["geography"])
    table = read_table(OUTPUT, LABELS)
    assert table["prompt_id"].to_list() == [f"geography-{number:05d}" for number in range(8)]
    assert set(table["teacher"]) == {"tiny-2"}  # as the server resolved it, not as it was sent
    assert table["confidence"].to_list() == pytest.approx([0.9] * 8)
    assert table["summary"][0] == "It leaves Paris for New York."
    found = metrics()
    assert (
        found["teacher"]["target_accuracy"] == 1 and found["calls"] == 8 and found["cost_usd"] == pytest.approx(0.0088)
    )
    assert found["recurring_wordings"] == {"it leaves <moved_from> for <moved_to>": 1.0}


GOOD = {"summary": "s", "moved_from": "", "moved_to": "a", "domain": "music", "confidence": 1}


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        ("refusal", completion(None, refusal="I can't help with that.")),
        ("content_filter", completion("", finish_reason="content_filter")),
        ("wrong_enum", completion(json.dumps(GOOD | {"domain": "sport"}))),
        ("wrong_schema", completion(json.dumps({"summary": "s"}))),
        ("wrong_schema", completion(json.dumps(GOOD | {"more": 1}))),
        ("wrong_schema", completion(json.dumps(GOOD | {"confidence": float("nan")}))),
        ("wrong_schema", completion(json.dumps(GOOD | {"summary": "\ud800"}))),
        ("wrong_schema", completion('["Paris"]')),
        ("inconsistent", completion(json.dumps(GOOD | {"domain": "none"}))),
        ("inconsistent", completion(json.dumps(GOOD | {"moved_to": " "}))),
    ],
)
def test_an_answer_that_can_t_be_used_is_repaired_once_or_quarantined(serve: Serve, fault: str, reply: dict[str, Any]):
    final = fault in ("refusal", "content_filter")
    stubborn = "Guinea Bissau ."  # the rows that end here stay wrong

    def script(asked):
        return (
            teacher(asked)
            if is_repair(asked) and stubborn not in asked.body["messages"][1]["content"]
            else Reply(reply)
        )

    world.write_world(6, backend="openai", max_quarantined=0.99)
    server = serve(script)
    if final:
        with pytest.raises(ValueError, match=f"6 of 6 answers .*6 {fault}"):
            main(["geography"])
        assert len(server.asked) == 6  # asking again does not change a refusal
        return
    main(["geography"])
    bad, good = pl.read_parquet(QUARANTINE), read_table(OUTPUT, LABELS)
    assert len(bad) + len(good) == 6 and 0 < len(bad) < 6
    assert set(bad["fault"]) == {fault} and set(bad["teacher"]) == {"tiny"}
    assert metrics()["faults"] == {fault: len(bad)} and metrics()["repairs"] == 6
    assert len(server.asked) == 12 and set(server.billed.values()) <= {1}
    assert_consistent(12)


UNUSABLE = [
    ("truncated", completion('{"summary": "It mov', finish_reason="length")),
    ("empty_choices", completion("") | {"choices": []}),
    ("empty_answer", completion("")),
    ("empty_answer", completion(None) | {"choices": [{"message": None}]}),
    ("not_json", completion("Sure! It moves to Paris.")),
    ("not_json", completion('{"summary": "It mov')),
    ("not_json", completion("[" * 10_000)),
]
PAID = 0.0011  # US dollars for what the server says it counted


@pytest.mark.parametrize(("fault", "reply"), UNUSABLE)
def test_an_answer_without_json_is_paid_thrown_away_and_asked_for_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, fault: str, reply: dict[str, Any]
):
    monkeypatch.setenv("LABELS_BACKOFF", "0.002")
    monkeypatch.setenv("LABELS_TIMEOUT", "10")
    world.write_world(100, backend="openai", max_quarantined=0.0)
    server = serve(mute(0.12, Reply(reply)))
    main(["geography"])
    assert len(read_table(OUTPUT, LABELS)) == 100 and pl.read_parquet(QUARANTINE).is_empty()
    failed = len(server.asked) - 100
    assert 5 < failed < 30 and last_run()["faults"] == {fault: failed} and metrics()["repairs"] == 0
    assert len(server.tries) == 100 and set(server.billed.values()) == {1}  # a new Idempotency-Key each time
    assert_consistent(100, discarded=failed * PAID)
    assert last_run()["spent_usd"] == pytest.approx(len(server.asked) * PAID)
    main(["geography"])
    assert len(server.asked) == 100 + failed


@pytest.mark.parametrize(("fault", "reply"), UNUSABLE[2::2])
def test_a_row_that_never_gets_json_is_repaired_or_quarantined_until_asked_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, fault: str, reply: dict[str, Any]
):
    monkeypatch.setenv("LABELS_TRIES", "3")
    monkeypatch.setenv("LABELS_TIMEOUT", "10")
    stubborn = ("the7'", "the8'")

    def script(asked: Asked) -> Reply:
        shift = asked.body["messages"][1]["content"]
        return Reply(reply) if any(row in shift for row in stubborn[is_repair(asked) :]) else teacher(asked)

    world.write_world(30, backend="openai")
    server = serve(script)
    main(["geography"])  # row 7 is repaired, row 8 is not
    bad = pl.read_parquet(QUARANTINE)
    assert bad["prompt_id"].to_list() == ["geography-00008"] and set(bad["fault"]) == {fault}
    assert len(server.asked) == 28 + 3 + 3 + 1 + 3 and set(server.billed.values()) == {1}
    assert_consistent(29, discarded=9 * PAID)
    outputs = [OUTPUT, QUARANTINE, Path("data/labels/metrics/geography.json")]
    before = [path.read_bytes() for path in outputs]
    main(["geography"])
    assert len(server.asked) == 38 and [path.read_bytes() for path in outputs] == before
    monkeypatch.setenv("LABELS_ASK_AGAIN", "1")
    main(["geography"])
    assert len(server.asked) == 44 and set(server.billed.values()) == {1}
    server = serve(teacher)
    main(["geography"])
    assert len(server.asked) == 1 and len(read_table(OUTPUT, LABELS)) == 30
    main(["geography"])  # nothing is in quarantine any more
    assert len(server.asked) == 1


def test_what_is_in_quarantine_is_asked_again_with_one_switch(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    wrong = Reply(completion(json.dumps(GOOD | {"domain": "sport"})))

    def script(asked: Asked) -> Reply:
        return wrong if "'Paris .'" in asked.body["messages"][1]["content"] else teacher(asked)

    world.write_world(12, backend="openai", max_quarantined=0.0)
    serve(script)
    with pytest.raises(ValueError, match=r"LABELS_ASK_AGAIN=1 asks the same once more"):
        main(["geography"])
    raw = json.loads(Path(".cache/labels/quarantine/geography.json").read_text())
    server = serve(teacher)
    with pytest.raises(ValueError, match=rf"found {len(raw)} of 12"):
        main(["geography"])
    assert not server.asked
    monkeypatch.setenv("LABELS_ASK_AGAIN", "yes")
    with pytest.raises(ValueError, match=r"LABELS_ASK_AGAIN: found 'yes', wanted 1"):
        main(["geography"])
    monkeypatch.setenv("LABELS_ASK_AGAIN", "1")
    main(["geography"])
    assert len(server.asked) == len(raw) > 0 and len(read_table(OUTPUT, LABELS)) == 12
    assert_consistent(12, discarded=2 * len(raw) * PAID)


def test_a_teacher_that_never_says_json_is_not_asked_for_all_rows(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABELS_TRIES", "2")
    monkeypatch.setenv("LABELS_CONCURRENCY", "4")
    world.write_world(100, backend="openai")
    server = serve(lambda asked: Reply(completion("It moves to Paris.")))
    with pytest.raises(ValueError, match=r"not_json: the server answers nothing that can be used any more"):
        main(["geography"])
    assert len(server.asked) <= 2 * 2 * 4


def test_thrown_away_answers_count_against_the_budget(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABELS_TRIES", "50")
    monkeypatch.setenv("LABELS_BACKOFF", "0.001")
    world.write_world(40, backend="openai", api={"budget": 0.02})
    server = serve(lambda asked: Reply(completion("")))
    with pytest.raises(ValueError, match=r"api.budget"):
        main(["geography"])
    assert 0 < len(server.asked) * PAID <= 0.02
    assert_consistent(0, discarded=len(server.asked) * PAID)


def test_a_model_that_is_called_by_its_folder_leaves_no_path_in_the_labels(serve: Serve):
    world.write_world(2, backend="openai")
    serve(lambda asked: Reply(completion(json.dumps(label_of(asked.body)), model="/srv/models/tiny")))
    main(["geography"])
    assert set(read_table(OUTPUT, LABELS)["teacher"]) == {"tiny"}


def test_json_in_a_code_fence_and_at_the_limit_is_good(serve: Serve):
    world.write_world(3, backend="openai")
    serve(lambda asked: Reply(completion(f"```json\n{json.dumps(label_of(asked.body))}\n```", finish_reason="length")))
    main(["geography"])
    assert len(read_table(OUTPUT, LABELS)) == 3


def test_too_many_in_quarantine_fail_the_stage_and_leave_its_outputs(serve: Serve):
    world.write_world(4, backend="openai")
    serve(teacher)
    main(["geography"])
    before = {path: path.read_bytes() for path in Path("data/labels").rglob("*.*")}
    world.write_world(20, backend="openai")
    serve(lambda asked: Reply(completion('{"idea": "no"}')))
    with pytest.raises(
        ValueError, match=r"labels.max_quarantined: found 16 of 20 .* share of 0.1: 16 wrong_schema"
    ) as error:
        main(["geography"])
    assert before == {path: path.read_bytes() for path in Path("data/labels").rglob("*.*")}
    raw = json.loads(Path(".cache/labels/quarantine/geography.json").read_text())
    assert len(raw) == 16 and raw[0]["raw_answer"] == raw[0]["raw_repair"] == '{"idea": "no"}'
    assert ".cache/labels/quarantine/geography.json" in str(error.value)


def test_a_request_that_the_server_rejects_is_quarantined_and_asked_again_next_time(serve: Serve):
    def script(asked):
        if "'Paris .'" in asked.body["messages"][1]["content"]:
            return Reply({"error": {"message": "context too long"}}, 400)
        return teacher(asked)

    world.write_world(6, backend="openai", max_quarantined=0.9)
    serve(script)
    main(["geography"])
    bad = pl.read_parquet(QUARANTINE)
    assert set(bad["fault"]) == {"rejected"} and "context too long" in bad["detail"][0]
    serve(teacher)
    main(["geography"])
    assert pl.read_parquet(QUARANTINE).is_empty() and last_run()["asked"] == len(bad)


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ("rate_limit: the server asks to wait 600 s", Reply({"error": {}}, 429, {"retry-after": "600"})),
        ("insufficient_quota", Reply({"error": {"message": "pay", "code": "insufficient_quota"}}, 429)),
        ("wrong_key: HTTP 401", Reply({"error": {"message": f"bad key {KEY}"}}, 401)),
        ("not_found: HTTP 404: .*labels|not_found: HTTP 404", Reply({"error": {"message": "no such model"}}, 404)),
        ("redirect: HTTP 302", Reply("", 302)),
    ],
)
def test_what_asking_on_can_t_mend_stops_at_once_and_keeps_all(serve: Serve, message: str, reply: Reply):
    world.write_world(5, backend="openai")
    serve(teacher)
    main(["geography"])
    world.write_world(200, backend="openai")
    server = serve(lambda asked: reply)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        main(["geography"])
    assert time.monotonic() - start < 5
    assert len(server.asked) <= 16 and KEY not in str(error.value)
    assert "0 of 195 answers are kept" in str(error.value)
    assert_consistent(5)


def test_a_server_that_fails_for_good_or_is_not_there_ends_the_run(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABELS_TRIES", "2")
    world.write_world(100, backend="openai")
    serve(lambda asked: Reply("", 500))
    with pytest.raises(ValueError, match="server_error: the server answers nothing any more"):
        main(["geography"])
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="no_connection"):
        main(["geography"])
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    with pytest.raises(ValueError, match="0 of 100 answers are kept"):
        main(["geography"])
    assert_consistent(0)


def test_a_few_requests_without_an_answer_are_named_and_the_rest_is_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABELS_TRIES", "2")
    world.write_world(30, backend="openai")
    unlucky = "the7'"
    serve(lambda asked: Reply("", 503) if unlucky in asked.body["messages"][1]["content"] else teacher(asked))
    with pytest.raises(
        ValueError, match=r"1 requests got no answer in 2 tries each \(server_error 1\); 29 of 30 answers"
    ):
        main(["geography"])
    server = serve(teacher)
    main(["geography"])
    assert len(server.asked) == 1 and len(read_table(OUTPUT, LABELS)) == 30


def test_requests_in_flight_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABELS_CONCURRENCY", "3")
    world.write_world(20, backend="openai")
    server = serve(lambda asked: Reply(teacher(asked).content, wait=0.02))
    main(["geography"])
    assert server.most_in_flight == 3


def test_another_domain_pays_for_itself_and_another_parser_for_nothing(serve: Serve):
    world.write_world(6, backend="openai")
    server = serve(teacher)
    main(["geography"])
    world.write_world(4, domain="astronomy", backend="openai", max_quarantined=0.5)
    Path("data/facts/music.yaml").write_text(
        Path("data/facts/astronomy.yaml").read_text().replace("astronomy", "music")
    )
    content = world.params(backend="openai", max_quarantined=0.5)
    world.write_params(content | {"domains": [*content["domains"], "music"]})
    main(["astronomy"])
    main(["geography"])
    assert len(server.asked) == 10 and last_run()["asked"] == 0 and last_run()["cached"] == 6


def test_the_second_teacher_labels_a_sample(serve: Serve):
    other = world.TEACHER | {"model": "other", "structured": "none", "max_tokens_key": "max_completion_tokens"}
    api = {"prices": {name: {"input": 1.0, "output": 2.0, "batch": 0.5} for name in ("tiny", "other")}}

    def script(asked):
        wrong = {"domain": "music"} if asked.body["model"] == "other" and "'Guinea ." in str(asked.body) else {}
        return Reply(completion(json.dumps(label_of(asked.body) | wrong), model=asked.body["model"]))

    world.write_world(60, backend="openai", api=api, second={"share": 0.5, "seed": 1, "teacher": other})
    server = serve(script)
    main(["geography"])
    second = read_table(Path("data/labels/second/geography.parquet"), LABELS)
    assert 15 < len(second) < 45 and set(second["teacher"]) == {"other"}
    found = metrics()
    assert found["agreement"]["rows"] == found["second_calls"]["calls"] == len(second)
    assert found["agreement"]["moved_to"] == 1 and 0 < found["agreement"]["domain"] < 1
    assert found["second"]["target_accuracy"] == 1
    assert found["cost_usd"] == pytest.approx(0.0011 * (60 + len(second)))
    bodies = [asked.body for asked in server.asked if asked.body["model"] == "other"]
    assert all("response_format" not in body and body["max_completion_tokens"] == 200 for body in bodies)
    world.write_world(30, backend="openai", api=api, second={"share": 0.5, "seed": 1, "teacher": other})
    main(["geography"])
    fewer = read_table(Path("data/labels/second/geography.parquet"), LABELS)
    assert set(fewer["prompt_id"]) == {name for name in second["prompt_id"] if name < "geography-00030"}
