"""Rows of one's own go the whole way: a projector trains on them, and no score is about them."""

import json
from pathlib import Path

from stages.core.data.tables import PROMPTS, ROW, read_table
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.pipeline.warm import Warm


def test_a_projector_trains_on_rows_and_nothing_is_scored_on_them(
    tiny_pipeline: Path, warm_python: Warm, tmp_path: Path
):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    table, trained = root / "data/prompts/geography.parquet", files(root / "data/projector")
    facts = read_table(table, PROMPTS)
    names = read_table(root / "data/prompts/music.parquet", PROMPTS).filter(held_out="none")["target"].unique().sort()
    prompts = facts.filter(held_out="none")["prompt"].unique().sort()
    rows = [{"prompt": prompt, "completion": f" {name}"} for prompt in prompts for name in names]
    (root / "data/rows").mkdir()
    (root / "data/rows/geography.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tiny.edit_params(root, prompts__generator="rows")
    for stage in ("prompts", "gradients", "virtual_step", "labels"):
        warm_python.run(root, stage, "geography")
    assert (root / "data/labels/metrics/geography.json").read_bytes() != b""
    new = read_table(table, PROMPTS)
    assert new[: len(facts)].equals(facts) and set(new[len(facts) :]["kind"]) == {ROW}
    warm_python.run(root, "projector")
    assert files(root / "data/projector") != trained
    warm_python.run(root, "evaluation")
