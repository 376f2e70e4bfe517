"""Leave one domain out: what training leaves out, and the table that is made of all domains' scores."""

import sys
from pathlib import Path

import polars as pl
import pytest

from stages.core.data.gathering import Gathered, usable
from stages.core.data.tables import LABELS, read_table, write_table
from stages.core.page.inputs import read_params
from stages.core.page.sweep import LEAVE_ONE_OUT, read_sweep
from stages.core.run.files import write_json
from stages.core.run.params import read_sections
from stages.tools import experiment, params_file, sweep_table
from tests.pipeline import tiny

FIRST, SECOND = tiny.DOMAINS


class Stopped(Exception):
    pass


@pytest.fixture
def root(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    monkeypatch.chdir(root)
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

    tiny.declare_sweeps(root)
    monkeypatch.setattr(experiment, "teach", teach)
    with pytest.raises(Stopped):
        experiment.left_out(FIRST, read_sections(experiment.Sections))
    (rows,) = taught
    assert set(rows["domain"]) == set(rows["label_domain"]) == {SECOND}
    assert wrong not in rows["prompt_id"]


def test_the_table_has_a_row_for_each_domain_in_the_order_of_params_and_is_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    half, quarter = (dict.fromkeys(("value", "low", "high"), value) for value in (0.5, 0.25))
    scores = {f"{name}_accuracy": half for name in ("domain", "target", "answer")} | {"host_intrusion": quarter}
    monkeypatch.setattr(sys, "argv", ["sweep_table", LEAVE_ONE_OUT])
    write_json(experiment.LEFT_OUT / f"{SECOND}.json", scores)
    with pytest.raises(ValueError, match=f"{FIRST}.json: no such file"):
        sweep_table.main()
    write_json(experiment.LEFT_OUT / f"{FIRST}.json", scores)
    sweep_table.main()
    assert list(params_file.content(params_file.read())["report"]["sweeps"]) == [LEAVE_ONE_OUT]
    sweep = read_sweep(LEAVE_ONE_OUT, read_params())
    assert sweep.same_settings and sweep.path.stem == LEAVE_ONE_OUT and "held_out_target" not in sweep.measures
    ((group, points),) = sweep.groups.items()
    assert group == "Never trained on" and [point.label for point in points] == [FIRST, SECOND]
    assert {point.group["host_intrusion"].value for point in points} == {0.25}
