"""Two ranks on the CPU (gloo) train projectors and ask for reports as one process does, byte for byte."""

from pathlib import Path

import pytest

from stages.core.model.ranks import launch
from stages.core.run.errors import InputError
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.pipeline.warm import Warm


def test_two_ranks_train_and_evaluate_as_one_process_does(
    tiny_pipeline: Path, warm_python: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone, shared = (tiny.copied(tiny_pipeline, tmp_path / name) for name in ("alone", "shared"))
    for root in (alone, shared):
        tiny.edit_params(root, projector__seeds=[0, 1], evaluation__gradients=2)
    monkeypatch.chdir(shared)
    for stage in ("projector", "evaluation"):
        warm_python.run(alone, stage)
        before = files(shared / "data" / stage)
        launch([str(warm_python.bin / "python"), "-m", f"stages.{stage}"], 2)
        assert files(shared / "data" / stage) == files(alone / "data" / stage) != before
    assert not [path for path in (shared / ".scratch").rglob("*") if path.is_file()]


def test_nothing_is_written_where_a_rank_dies(
    tiny_pipeline: Path, warm_python: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(root, projector__seeds=[0, 1])
    monkeypatch.chdir(root)
    before = files(root / "data/projector")
    dying = tmp_path / "dying.sh"
    python = warm_python.bin / "python"
    dying.write_text(f'#!/bin/sh\n[ $RANK = 0 ] || kill -9 $$\nexec {python} "$@"\n', encoding="utf-8")
    dying.chmod(0o755)
    with pytest.raises(InputError, match=r"^rank 1 \(signal 9\) ended before the work was done"):
        launch([str(dying), "-m", "stages.projector"], 2)
    assert files(root / "data/projector") == before
