"""The stage evaluation: what it reads at the subject's last token."""

import json
from pathlib import Path

from tests.pipeline import tiny
from tests.pipeline.warm import Warm


def metrics(root: Path) -> dict:
    return json.loads((root / "data/evaluation/metrics.json").read_text())


def test_the_subject_is_read_where_the_stores_have_it_and_changes_nothing_else(
    tiny_pipeline: Path, tmp_path: Path, warm_python: Warm
):
    copied = tiny.copied(tiny_pipeline, tmp_path / "repository")
    before = metrics(copied)
    found = before.pop("subject")
    assert {"decoupling", "without_model", "floor", "ceiling", "words", "knowledge"} <= found.keys()
    assert {"raw", "freed", "named", "nearest", "shuffled", "foreign"} == found["knowledge"].keys()
    tiny.edit_params(copied, gradients__places=["target_1", "target_2", "target_3"])
    for domain in tiny.DOMAINS:
        warm_python.run(copied, "gradients", domain)
    warm_python.run(copied, "evaluation")
    now = metrics(copied)
    assert now.keys() == before.keys()
    for group in ("decoupling", "controls", "knowledge", "questions"):
        assert now[group] == before[group]
