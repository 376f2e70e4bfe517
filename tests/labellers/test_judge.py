"""The judge reads reports blind to their condition, and agrees with the deterministic score where both are right."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.params import Api, Judge
from stages.core.tables import PROMPTS, write_table
from stages.core.wording import parse_report, report
from stages.tools import judge as module
from stages.tools.judge import JUDGED, REPORTS, judge, main, questions, scores
from tests.labellers import world
from tests.labellers.server import Asked, Reply, Server, completion

SECTION = {"share": 1.0, "seed": 0, "way": "online", "max_quarantined": 0.0, "teacher": world.TEACHER}
API = Api.model_validate({"budget": 1.0, "prices": {"tiny": {"input": 1.0, "output": 2.0, "batch": 0.5}}})


def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Prompts of two domains, and reports on the first: right, wrong, malformed, the host's, without a host."""
    rows = [world.correction(n)[1] for n in range(6)] + [world.correction(n, "astronomy")[1] for n in range(6)]
    rows[5]["answer"] = None
    prompts = pl.DataFrame(rows, schema=PROMPTS)  # type: ignore[arg-type]
    gradient, host = rows[0], rows[6]
    right = report("geography", gradient["target"], gradient["answer"], "strong")
    swapped = report("geography", gradient["answer"], gradient["target"], "strong")
    hosts = report("astronomy", host["target"], host["answer"], "weak")
    made = [
        (gradient, host, "real", right),
        (gradient, host, "shuffled", right),
        (gradient, host, "flipped", swapped),
        (gradient, host, "none", hosts),
        (gradient, host, "zero", "no pressure"),
        (gradient, None, "real", "paris paris paris"),
        (rows[5], host, "real", report("geography", rows[5]["target"], "Paris", "strong")),
    ]
    found = [(g["prompt_id"], h and h["prompt_id"], condition, text) for g, h, condition, text in made]
    return pl.DataFrame(found, schema=REPORTS, orient="row"), prompts  # type: ignore[arg-type]


def careful(asked: Asked) -> Reply:
    """A judge that reads the grammar."""
    user = dict(line.split(": ", 1) for line in asked.body["messages"][1]["content"].split("\n"))
    parsed = parse_report(user["Report"])

    def part(found: str, wanted: str) -> str:
        return "absent" if not found else "right" if found == wanted else "wrong"

    said: dict[str, Any] = {"host": "yes" if parsed.domain == "astronomy" else "no"}
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
    reports, prompts = tables()
    with Server(careful) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        judged = judge(reports, prompts, params(), API)
    table = judged.table
    assert table.columns == list(JUDGED) and len(table) == 7
    assert table["judge_moved_to"].to_list() == ["right", "right", "wrong", "wrong", "absent", "absent", "right"]
    assert table["judge_host"].to_list() == ["no", "no", "no", "yes", "no", None, "no"]
    assert table["score_host"].to_list() == [False, False, False, True, False, None, False]
    assert table["score_moved_from"].to_list() == [True, True, False, False, False, False, None]
    assert {
        part: (found["share"], found["kappa"]) for part, found in judged.metrics["agreement"].items()
    } == dict.fromkeys(("domain", "moved_to", "moved_from", "host"), (1.0, 1.0))
    assert [judged.metrics["agreement"][part]["rows"] for part in ("moved_to", "moved_from", "host")] == [7, 6, 6]
    # Equal reports under different conditions are one request.
    assert len(server.asked) == 11 and judged.metrics["calls"] == 11


def test_a_careless_judge_does_not_agree(monkeypatch: pytest.MonkeyPatch):
    always = {"domain": "right", "moved_to": "right", "moved_from": "right"}
    reports, prompts = tables()
    with Server(
        lambda a: Reply(completion(json.dumps(always if "Toward" in str(a.body) else {"host": "yes"})))
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        found = judge(reports, prompts, params(), API).metrics["agreement"]
    assert found["moved_to"]["share"] == pytest.approx(3 / 7) and found["moved_to"]["kappa"] == 0
    assert found["host"]["share"] == pytest.approx(1 / 6)


def test_the_judge_is_blind_to_the_condition_and_to_the_other_question():
    reports, prompts = tables()
    asked = questions(reports, prompts, params())
    other = reports.with_columns(condition=pl.lit("something else"))
    assert {name: request.key for name, request in questions(other, prompts, params()).items()} == {
        name: request.key for name, request in asked.items()
    }
    correction, host = (asked[f"{kind} 0"].body["messages"][1]["content"] for kind in ("correction", "host"))
    assert "The thing of" not in correction and "astronomy" not in correction
    assert "Toward" not in host and "The thing of subject 0 is" in host


def test_the_judge_is_off_by_default_and_says_its_bill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    reports, prompts = tables()
    world.write_world(1)
    for domain in world.ENTITIES:
        write_table(Path(f"data/prompts/{domain}.parquet"), prompts.filter(pl.col("domain") == domain), PROMPTS)
    write_table(Path("reports.parquet"), reports, REPORTS)
    world.write_params(world.params() | {"judge": SECTION | {"share": 0.0}})
    main(["reports.parquet"])
    assert capsys.readouterr().out == "judge: off (params.yaml: judge.share is 0)\n" and not Path(".cache").exists()
    world.write_params(world.params() | {"judge": SECTION})
    main(["reports.parquet", "--dry-run"])
    assert "11 requests, 0 cached, 11 calls" in capsys.readouterr().out and not Path(".cache").exists()
    with Server(careful) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        main(["reports.parquet"])
    assert "judge: 7 reports, 0 answers in quarantine" in capsys.readouterr().out
    first = Path("data/judge/judged.parquet").read_bytes(), Path("data/judge/metrics.json").read_bytes()
    main(["reports.parquet"])
    assert first == (Path("data/judge/judged.parquet").read_bytes(), Path("data/judge/metrics.json").read_bytes())


def test_a_wrong_verdict_is_repaired_and_too_many_fail(monkeypatch: pytest.MonkeyPatch):
    reports, prompts = tables()
    with Server(lambda asked: Reply(completion('{"host": "maybe"}'))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ValueError, match=r"judge.max_quarantined: found 13 of 13 .*wrong_enum"):
            judge(reports, prompts, params(), API)


def test_a_report_of_an_unknown_prompt_is_named():
    reports, prompts = tables()
    with pytest.raises(ValueError, match=r"reports, row 0: prompt_id: no 'x' in data/prompts"):
        questions(reports.with_columns(prompt_id=pl.lit("x")), prompts, params())


def test_part_of_the_reports_is_drawn_by_what_they_are():
    reports, _ = tables()
    half = module.chosen(reports, params(share=0.5))
    assert 0 < len(half) < 7
    assert module.chosen(reports.reverse(), params(share=0.5)).reverse().equals(half)
    assert len(scores(half, tables()[1])) == len(half)
