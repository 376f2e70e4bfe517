"""Rows of one's own go the whole way: a projector trains on them, and no score is about them."""

import json
from pathlib import Path

import pytest

from stages.core.data.gathering import gather, taught
from stages.core.data.tables import PROMPTS, ROW, read_table
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.pipeline.test_same_bytes import TOLERANCE, distance
from tests.pipeline.warm import Warm


def test_a_projector_trains_on_rows_and_no_score_changes_by_them(
    tiny_pipeline: Path, warm_python: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    facts, music = (read_table(root / f"data/prompts/{name}.parquet", PROMPTS) for name in tiny.DOMAINS)
    names = [*music.filter(held_out="none")["target"].unique().sort(), "sound", "place", "name", "is"]
    prompts = facts.filter(held_out="none")["prompt"].unique().sort()
    rows = [{"prompt": prompt, "completion": f" {name}"} for prompt in prompts for name in names]
    (root / "data/rows").mkdir()
    (root / "data/rows/geography.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tiny.edit_params(root, prompts__generator="rows")
    for stage in ("prompts", "gradients", "virtual_step", "labels"):
        warm_python.run(root, stage, "geography")
    for stage in ("evaluation", "grounding"):  # of the projector that was there
        warm_python.run(root, stage)
    assert files(root / "data/evaluation") == files(tiny_pipeline / "data/evaluation")
    # the rows stand in batches with the facts': on some processors that is a gradient's last bit, and a share's
    assert distance("grounding", root, tiny_pipeline) <= TOLERANCE["grounding"]
    metrics = (json.loads((each / "data/labels/metrics/geography.json").read_text()) for each in (root, tiny_pipeline))
    assert len({json.dumps(each["teacher"]) for each in metrics}) == 1

    monkeypatch.chdir(root)
    own = gather(tiny.DOMAINS, [0], places=["target_1", "subject"])
    first, subject = own.gradient[own.rows.filter(kind=ROW)["row"].to_numpy()].transpose(1, 0, 2)
    assert first.any(1).all() and not subject.any()
    assert len(taught(gather(tiny.DOMAINS, [1]).rows, "train").filter(kind=ROW)) > 100
    warm_python.run(root, "projector")
    trained = files(root / "data/projector")
    assert trained["seed_0.safetensors"] != files(tiny_pipeline / "data/projector")["seed_0.safetensors"]
    assert gather(tiny.DOMAINS, [1], places=["subject"]).rows.filter(kind=ROW).is_empty()  # nothing to read there
