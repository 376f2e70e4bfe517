"""Leave one domain out: what training leaves out, and that a killed run goes on with the domains that are missing."""

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.gathering import Gathered, usable
from stages.core.data.tables import LABELS, read_table, write_table
from stages.core.evaluate.estimate import Estimate
from stages.core.model.opening import open_model
from stages.core.page.inputs import read_params
from stages.core.page.sweep import LEAVE_ONE_OUT, read_sweep
from stages.core.run.files import Scratch
from stages.core.run.params import read_sections
from stages.tools import leave_one_out, params_file
from tests.pipeline import tiny

FIRST, SECOND = tiny.DOMAINS


class Stopped(Exception):
    pass


@pytest.fixture
def root(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["leave_one_out"])
    return root


def test_no_report_of_training_says_the_word_of_the_domain_left_out(root: Path, monkeypatch: pytest.MonkeyPatch):
    path, known = root / f"data/labels/{SECOND}.parquet", usable()
    labels = read_table(path, LABELS)
    wrong = labels["prompt_id"][0]
    path.unlink()
    mistaken = pl.when(pl.col("prompt_id") == wrong).then(pl.lit(FIRST)).otherwise("domain")
    write_table(path, labels.with_columns(domain=mistaken), LABELS)
    taught: list[pl.DataFrame] = []

    def teach(_: object, data: Gathered, *__: object) -> None:
        taught.append(data.rows.filter(known))
        raise Stopped

    monkeypatch.setattr(leave_one_out, "teach", teach)
    params = read_sections(leave_one_out.Sections)
    with pytest.raises(Stopped):
        leave_one_out.left_out(FIRST, params, *open_model(), Scratch("left_out"))
    (rows,) = taught
    assert set(rows["domain"]) == set(rows["label_domain"]) == {SECOND}
    assert wrong not in rows["prompt_id"]


def test_a_killed_run_goes_on_with_the_domains_that_are_missing(root: Path, monkeypatch: pytest.MonkeyPatch):
    half, quarter = Estimate(0.5, 0.5, 0.5), Estimate(0.25, 0.25, 0.25)
    scores = {f"{name}_accuracy": half for name in ("domain", "target", "answer")} | {"host_intrusion": quarter}
    asked: list[str] = []

    def left_out(domain: str, *_: object) -> dict[str, Any]:
        asked.append(domain)
        if asked == [FIRST, SECOND]:
            raise Stopped
        return scores

    monkeypatch.setattr(leave_one_out, "left_out", left_out)
    with pytest.raises(Stopped):
        leave_one_out.main()
    assert not (root / "data/sweep").exists()
    leave_one_out.main()
    assert asked == [FIRST, SECOND, SECOND]
    assert list(params_file.content(params_file.read())["report"]["sweeps"]) == [LEAVE_ONE_OUT]
    sweep = read_sweep(LEAVE_ONE_OUT, read_params())
    assert sweep.same_settings and sweep.left_out and "held_out_target" not in sweep.measures
    ((group, points),) = sweep.groups.items()
    assert group == "Never trained on" and [point.name for point in points] == [FIRST, SECOND]
    assert {point.numbers["host_intrusion"].value for point in points} == {0.25}
