"""The stage: what it writes, and what it says of reports that say nothing that this model knows."""

import json
from pathlib import Path

import polars as pl
import pytest

from stages.core.data.gradient_store import open_store
from stages.core.data.tables import PROMPTS, read_table, write_table
from stages.core.evaluate.table import REPORTS
from stages.grounding import SHARES
from tests.pipeline import tiny
from tests.pipeline.warm import Warm

REPORTS_TABLE, METRICS = Path("data/evaluation/reports.parquet"), Path("data/grounding/metrics.json")


def metrics(root: Path) -> dict:
    return json.loads((root / METRICS).read_text(encoding="utf-8"))


def test_it_scores_one_report_a_gradient_against_every_other_text(tiny_pipeline: Path):
    shares, found = read_table(tiny_pipeline / "data/grounding/shares.parquet", SHARES), metrics(tiny_pipeline)
    reports = read_table(tiny_pipeline / REPORTS_TABLE, REPORTS).filter(pl.col("condition") == "real")
    scored = reports.filter(~pl.col("held_out").is_in(["answer", "subject", "correction"]))
    assert set(shares["place"]) == {"target_1", "subject"}
    shares = shares.filter(place="target_1")
    assert sorted(shares["prompt_id"]) == sorted(set(scored["prompt_id"]))
    assert shares["span"].is_between(0, 1).all()
    texts = found["grounding"]["target_1_words"]
    assert {"report", "label", "lens", "target", "domain", "prompt", "empty", "shuffled_within"} < texts.keys()
    forms = ("order", "sentence", "short", "turned", "change", "push", "words")
    assert {name for name in texts if name.startswith("form_")} == {f"form_{name}" for name in forms}
    seen = shares.filter(pl.col("held_out") == "none")
    assert texts["report"]["explained_seen"]["value"] == pytest.approx(seen["words"].mean(), abs=1e-5)
    assert found["acting"]["toward"]["gradient"].keys() == {"step_0.5", "step_1", "step_2"}
    acted = {"words", "reading", "words_shuffled", "reading_shuffled", "form", "label", "lens", "prompt"}
    assert found["acting"]["toward"].keys() == {"gradient"} | acted
    assert found["real"]["steps"] == 4 and found["real"]["corrected"].keys() == {"gradient", "unchanged"} | acted
    assert found["negatives"].keys() == {"activation", "activation_negated", "steering_vector"}
    assert all(scores.keys() == {"gate", "nearest"} for scores in found["negatives"].values())


@pytest.fixture
def copied(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return tiny.copied(tiny_pipeline, tmp_path / "repository")


@pytest.mark.parametrize("text", ["no pressure", "toward 東京 , a name from 地理 , and away from パリ", "?"])
def test_reports_without_a_word_that_the_model_knows_explain_nothing(text: str, copied: Path, warm_python: Warm):
    reports = read_table(copied / REPORTS_TABLE, REPORTS)
    (copied / REPORTS_TABLE).unlink()
    silent = reports.with_columns(report=pl.lit(text), moved_to=pl.lit(""), moved_from=pl.lit(""))
    write_table(copied / REPORTS_TABLE, silent, REPORTS)
    warm_python.run(copied, "grounding")
    assert set(read_table(copied / "data/grounding/shares.parquet", SHARES)["span"]) == {0.0}
    texts = metrics(copied)["grounding"]["target_1_words"]
    assert texts["report"] == texts["empty"]


def test_the_subject_is_scored_where_the_stores_have_it(copied: Path, warm_python: Warm):
    tiny.edit_params(copied, gradients__places=["target_1", "target_2", "target_3", "subject"])
    for domain in tiny.DOMAINS:
        warm_python.run(copied, "gradients", domain)
    warm_python.run(copied, "grounding")
    found = metrics(copied)
    prompts = read_table(copied / f"data/prompts/{tiny.DOMAINS[0]}.parquet", PROMPTS)
    store = open_store(copied / f"data/gradients/{tiny.DOMAINS[0]}.zarr", prompts["prompt_id"])
    last = store.read("gradient", places=["subject"])[:, 0, found["layers"]["subject"] + 1 :]
    assert found["layers"] == {"target_1": 1, "subject": 0} and not last.any()
    assert found["grounding"]["subject_words"].keys() == found["grounding"]["target_1_words"].keys()
