"""The judge reads reports blind to their condition, and agrees with the deterministic score where both are right."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.api.section import Api
from stages.core.data.grammar import parse_report, report
from stages.core.data.tables import write_table
from stages.core.evaluate.scores import scored
from stages.core.evaluate.table import REPORTS
from stages.tools.judge import JUDGED, TABLE, Judge, chosen, judge, main, questions
from tests.labellers import world
from tests.labellers.server import Asked, Reply, Server, completion
from tests.pipeline import tiny

SECTION = {"share": 1.0, "seed": 0, "way": "online", "max_quarantined": 0.0, "teacher": world.TEACHER}
API = Api.model_validate({"budget": 1.0, "prices": {"tiny": {"input": 1.0, "output": 2.0, "batch": 0.5}}})
HOSTS = {"The thing of subject 0 is": "astronomy"}


def reports() -> pl.DataFrame:
    """Reports on one gradient: right, wrong, malformed, the host's, without a host, with one of its own domain."""
    gradient, host, own = (world.correction(0)[1], world.correction(0, "astronomy")[1], world.correction(1)[1])
    right = report("geography", gradient["target"], gradient["answer"])
    swapped = report("geography", gradient["answer"], gradient["target"])
    hosts = report("astronomy", host["target"], host["answer"])
    made = [
        (host, "real", right),
        (host, "shuffled", right),
        (host, "flipped", swapped),
        (host, "none", hosts),
        (host, "zero", "no pressure"),
        (None, "real", "paris paris paris"),
        (own, "real", right),
    ]
    cases = [
        {
            "prompt_id": gradient["prompt_id"],
            "host_prompt_id": host and host["prompt_id"],
            "condition": condition,
            "held_out": "none",
            "gradient_domain": "geography",
            "host_domain": host["domain"] if host else "none",
            "prompt": gradient["prompt"],
            "host": host and host["prompt"],
            "target": gradient["target"],
            "answer": gradient["answer"],
            "seed": 0,
            "confidence": 0.5,
        }
        for host, condition, _ in made
    ]
    kinds = {name: kind for name, kind in REPORTS.items() if name in cases[0]}
    return scored(pl.DataFrame(cases, schema=kinds), [text for *_, text in made])


def careful(asked: Asked, domains: Mapping[str, str] = HOSTS) -> Reply:
    """A judge that reads the grammar, and knows each host prompt's domain."""
    user = dict(line.split(": ", 1) for line in asked.body["messages"][1]["content"].split("\n"))
    parsed = parse_report(user["Report"])

    def part(found: str, wanted: str) -> str:
        return "absent" if not found else "right" if found == wanted else "wrong"

    said: dict[str, Any] = {"host": "yes" if parsed.domain == domains.get(user.get("Prompt", "")) else "no"}
    if "Toward" in user:
        said = {
            "domain": part(parsed.domain, user["Domain"]),
            "moved_to": part(parsed.moved_to, user["Toward"]),
            "moved_from": "absent" if "not known" in user["Away from"] else part(parsed.moved_from, user["Away from"]),
        }
    return Reply(completion(json.dumps(said)))


def params(**changes: Any) -> Judge:
    return Judge.model_validate(SECTION | changes)


def test_a_careful_judge_agrees_with_the_deterministic_score(monkeypatch: pytest.MonkeyPatch):
    with Server(careful) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        table, metrics, _ = judge(reports(), params(), API)
    found = metrics["agreement"]
    assert table.columns == list(JUDGED) and len(table) == 7
    assert table["judge_moved_to"].to_list() == ["right", "right", "wrong", "wrong", "absent", "absent", "right"]
    assert table["judge_host"].to_list() == ["no", "no", "no", "yes", "no", None, "no"]
    assert table["score_host"].to_list() == [False, False, False, True, False, None, None]
    assert table["score_moved_from"].to_list() == [True, True, False, False, False, False, True]
    assert {part: (one["share"], one["kappa"]) for part, one in found.items()} == dict.fromkeys(found, (1.0, 1.0))
    assert {part: one["rows"] for part, one in found.items()} == {
        "domain": 7,
        "moved_to": 7,
        "moved_from": 7,
        "host": 5,
    }
    assert found["moved_to"]["judge"] == found["moved_to"]["score"] == pytest.approx(3 / 7)
    # Equal reports under different conditions are one request.
    assert len(server.asked) == 10 and metrics["calls"] == 10


def test_a_careless_judge_does_not_agree(monkeypatch: pytest.MonkeyPatch):
    always = {"domain": "right", "moved_to": "right", "moved_from": "right"}
    with Server(
        lambda a: Reply(completion(json.dumps(always if "Toward" in str(a.body) else {"host": "yes"})))
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        found = judge(reports(), params(), API)[1]["agreement"]
    assert found["moved_to"]["share"] == pytest.approx(3 / 7) and found["moved_to"]["kappa"] == 0
    assert found["moved_to"]["judge"] == 1 and found["host"]["share"] == pytest.approx(1 / 5)


def test_the_judge_is_blind_to_the_condition_and_to_the_other_question():
    asked = questions(reports(), params())
    other = reports().with_columns(condition=pl.lit("something else"))
    assert {name: request.key for name, request in questions(other, params()).items()} == {
        name: request.key for name, request in asked.items()
    }
    correction, host = (asked[f"{kind} 0"].body["messages"][1]["content"] for kind in ("correction", "host"))
    assert "The thing of" not in correction and "astronomy" not in correction
    assert "Toward" not in host and "The thing of subject 0 is" in host


def test_the_judge_is_off_by_default_and_says_its_bill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_table(TABLE, reports(), REPORTS)
    world.write_params(world.params() | {"judge": SECTION | {"share": 0.0}})
    main([])
    assert capsys.readouterr().out == "judge: off (params.yaml: judge.share is 0)\n" and not Path(".cache").exists()
    world.write_params(world.params() | {"judge": SECTION})
    main(["--dry-run"])
    assert "10 requests, 0 cached, 10 calls" in capsys.readouterr().out and not Path(".cache").exists()
    with Server(careful) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main([])
    assert "judge: 7 reports, 0 answers in quarantine" in capsys.readouterr().out
    first = Path("data/judge/judged.parquet").read_bytes(), Path("data/judge/metrics.json").read_bytes()
    main([str(TABLE)])
    assert first == (Path("data/judge/judged.parquet").read_bytes(), Path("data/judge/metrics.json").read_bytes())


def test_it_judges_what_the_pipeline_s_model_wrote(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.copy(tiny_pipeline / "params.yaml", "params.yaml")
    shutil.copytree(tiny_pipeline / "data/evaluation", TABLE.parent)
    found = pl.read_parquet(TABLE)
    domains = dict(found.drop_nulls("host").select("host", "host_domain").iter_rows())

    def reader(asked: Asked) -> Reply:
        return careful(asked, domains)

    tiny.edit_params(Path(), judge=SECTION, api=API.model_dump() | {"budget": 10.0})
    with Server(reader) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main([])
    metrics = json.loads(Path("data/judge/metrics.json").read_text())
    assert metrics["reports"] == len(found) and metrics["calls"] == len(server.asked) < 2 * len(found)
    foreign = found.filter(pl.col("host").is_not_null() & (pl.col("host_domain") != pl.col("gradient_domain")))
    rows = {part: one["rows"] for part, one in metrics["agreement"].items()}
    assert rows == dict.fromkeys(("domain", "moved_to", "moved_from"), len(found)) | {"host": len(foreign)}
    # A judge that reads as the score does agrees on every report, those of a flipped sign included.
    assert {one["share"] for one in metrics["agreement"].values()} == {1.0}
    assert metrics["agreement"]["host"]["score"] == pytest.approx(foreign["host_intrusion"].mean())
    assert f"judge: {len(found)} reports" in capsys.readouterr().out


def test_a_wrong_verdict_is_repaired_and_too_many_fail(monkeypatch: pytest.MonkeyPatch):
    with Server(lambda asked: Reply(completion('{"host": "maybe"}'))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ValueError, match=r"judge.max_quarantined: found 13 of 13 .*wrong_enum"):
            judge(reports(), params(), API)


def test_a_table_that_holds_no_reports_is_refused():
    world.write_params(world.params() | {"judge": SECTION})
    write_table(Path("other.parquet"), reports().drop("host"), {k: v for k, v in REPORTS.items() if k != "host"})
    with pytest.raises(ValueError, match=r"other.parquet: column host: found no such column"):
        main(["other.parquet"])


def test_part_of_the_reports_is_drawn_by_what_they_are():
    half = chosen(reports(), params(share=0.5))
    assert 0 < len(half) < 7
    assert chosen(reports().reverse(), params(share=0.5)).reverse().equals(half)
