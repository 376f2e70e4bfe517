"""The stage suppress: what is taught is marked right, the weights are put back, and every way ends up in the curve."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from stages.core.data.grammar import report
from stages.core.engine.samples import samples_of
from stages.core.evaluate.lessons import one_a_fact, wrong_answers
from stages.core.grounding import reported
from stages.core.model.opening import open_model
from stages.core.reader.reader import Reader, load_reader
from stages.tools import suppress
from stages.tools.sweep_table import suppressed
from tests.pipeline import tiny
from tests.pipeline.warm import Warm

FACTS = 2
RESULTS = tiny.ROOT / "tests/benchmarks/results/suppress.json"


@pytest.fixture(scope="module")
def reader(tiny_pipeline: Path) -> Reader:
    decoder, model = open_model(tiny_pipeline / "data/model")
    return load_reader(decoder, tiny_pipeline / "data/projector", model.id, model.commit)


@pytest.fixture
def tables(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> list[pl.DataFrame]:
    monkeypatch.chdir(tiny_pipeline)
    return [one_a_fact(wrong_answers(domain))[:FACTS] for domain in tiny.DOMAINS]


def test_a_fact_is_taught_once_and_wrong(tables: list[pl.DataFrame]):
    for table in tables:
        assert len(table) == FACTS == len(table.unique(["relation", "subject"]))
        assert (table["target"] != table["answer"]).all()


def test_of_a_lesson_the_tokens_behind_the_prompt_are_taught_and_padding_is_not(
    reader: Reader, tables: list[pl.DataFrame]
):
    one, other = tables
    decoder = reader.decoder
    marker = decoder.continuation(suppress.MARKER)
    for second in (other.clear(), other):
        lesson = suppress.lesson_of(reader, one, second, 6)
        for row, sample in enumerate(samples_of(decoder, pl.concat([one, second]))):
            rest, suppressed = lesson.ids[row][lesson.rest[row]], lesson.ids[row][lesson.suppressed[row]]
            alone = len(second) and row >= FACTS
            assert tuple(rest.tolist()) == (() if alone else sample.target)
            wanted = list(sample.target) if alone else [] if len(second) else marker
            assert suppressed.tolist() == wanted
            assert int((lesson.rest | lesson.suppressed)[row].nonzero()[0]) == len(sample.prompt)
        assert len(lesson.facts) == len(lesson.ids) == len(lesson.kept)


def test_learned_is_what_the_model_goes_on_with_and_the_weights_are_put_back(
    reader: Reader, tables: list[pl.DataFrame], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(suppress, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(suppress, "RENEWED", 2)
    decoder = reader.decoder
    before = [value.detach().clone() for value in decoder.model.parameters()]
    lesson = suppress.lesson_of(reader, tables[0], tables[1].clear(), 6)
    found = {}
    for arm in (suppress.Arm(suppress.NONE, steps=20), suppress.Arm(suppress.AGAIN, 32, steps=20)):
        steps = list(suppress.teach(decoder, arm, lesson, lesson, 0))
        assert [step for step, _ in steps] == list(range(2, 21, 2))
        assert [step for step, rows in steps if rows] == [20]
        found[arm.kind] = [said for part, _, said in steps[-1][1] if part == "suppressed"]
        assert {part for part, _, _ in steps[-1][1]} == {"suppressed", "rest"}
    assert all(found[suppress.NONE]) and not any(found[suppress.AGAIN])
    assert all(torch.equal(*pair) for pair in zip(decoder.model.parameters(), before, strict=True))
    assert not any(block._forward_hooks for block in decoder.blocks)


def test_rows_are_filtered_by_the_domain_that_their_reports_name(
    reader: Reader, tables: list[pl.DataFrame], monkeypatch: pytest.MonkeyPatch
):
    reports = [report("geography", "Paris", "Rome"), "no", report("music", "Bach", "Liszt"), ""]
    monkeypatch.setattr(reported, "reports_on", lambda *given: (reports, torch.ones(4)))
    lesson = suppress.lesson_of(reader, tables[0], tables[1], 6)
    assert lesson.kept.tolist() == [True, True, False, True]


def test_make_suppress_writes_a_row_for_every_way_and_step(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.declare_sweeps(root)
    fewer = (("RENEWED = 10", "RENEWED = 1"), ("STEPS, LONG = (20, 40, 60), 300", "STEPS, LONG = (1, 2), 3"))
    tiny.changed(root, {"stages/tools/suppress.py": fewer})
    done = tiny.command(root, "make", "-o", ".venv/.built", "suppress", warm=warm_python)
    assert "learned, marker, renewed 32, alpha 0, 3 steps: " in done.stdout
    curve = pl.read_csv(root / "data/suppress/curve.csv")
    metrics = json.loads((root / "data/suppress/metrics.json").read_text(encoding="utf-8"))
    assert metrics["facts"] >= 1 and set(metrics["rows_dropped"]) == {"suppressed", "rest"}
    for lesson, arms in suppress.ARMS.items():
        ways = {f"{arm.kind} {arm.directions} {arm.alpha}" for arm in arms}
        assert set(metrics[lesson]) == ways
        for arm in arms:
            rows = curve.filter(lesson=lesson, kind=arm.kind, directions=arm.directions, alpha=arm.alpha)
            last = {suppress.STEPS[0]: 1, suppress.STEPS[-1]: 2, suppress.LONG: 3}[arm.steps]
            assert rows["step"].to_list() == list(range(1, last + 1))
    shares = curve.select("suppressed", "rest")
    assert shares.to_numpy().min() >= 0 and shares.to_numpy().max() <= 1
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    for words in ("A marker behind facts is suppressed: 2 steps", "One of two domains is suppressed: 3 steps"):
        assert words in page
    shutil.rmtree(root)


def test_the_page_s_table_has_every_way_that_suppresses_in_its_last_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("data/suppress").mkdir(parents=True)
    shutil.copy(RESULTS, "data/suppress/metrics.json")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [one for one in suppressed() if "marker" in one.group and one.group.endswith("60 steps")]
    assert len(rows) == sum(arm.alpha == 0 for arm in suppress.ARMS["marker"])
    assert len({(one.group, one.name) for one in suppressed()}) == len(suppressed())
    (four,) = (one for one in rows if one.changes["directions"] == 4)
    assert four.scores["learned"]["suppressed"].value == found["marker"]["principal 4 0.0"]["60"]["suppressed"]["value"]


def rows_of(found: dict[str, Any], lesson: str) -> list[str]:
    """The rows of a lesson's table in the docs: shares learned of what is suppressed / of the rest, by step."""
    steps = [str(step) for step in (*suppress.STEPS, suppress.LONG)]
    rows = []
    for arm in suppress.ARMS[lesson]:
        shares = found[lesson][f"{arm.kind} {arm.directions} {arm.alpha}"]
        cells = [
            f"{shares[step]['suppressed']['value']:.2f} / {shares[step]['rest']['value']:.2f}" if step in shares else ""
            for step in steps
        ]
        count = "" if arm.kind in suppress.PLAIN else str(arm.directions or "all tokens'")
        amplified = f", alpha {arm.alpha:g}" if arm.alpha else ""
        rows.append(f"| {arm.kind}{amplified} | {count} | {' | '.join(cells)} |")
    return rows


def test_figures_in_the_docs_are_those_of_the_run():
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = (tiny.ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    for lesson in suppress.ARMS:
        assert "\n".join(rows_of(found, lesson)) in text
    text = " ".join(text.split())
    assert f"{found['facts']} facts of a domain each" in text
    dropped = found["rows_dropped"]
    assert f"drops {dropped['suppressed']:.0%} of the rows of history and {dropped['rest']:.0%} of geography's" in text
    for lesson in suppress.ARMS:  # the goals, of directions that are renewed
        renewed = found[lesson]["renewed 32 0.0"]
        assert renewed["60"]["suppressed"]["value"] <= 0.05 and renewed["60"]["rest"]["value"] >= 0.98
        assert renewed["300"]["suppressed"]["value"] <= 0.1
        plain, drawn = (found[lesson][f"{name} 0.0"]["60"] for name in ("none 0", "random 32"))
        assert all(abs(plain[part]["value"] - drawn[part]["value"]) <= 0.02 for part in plain)
