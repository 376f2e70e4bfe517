"""The stage: what it writes, and what it says of bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import report
from stages.core.page.inputs import (
    ANSWERS_TABLE,
    CARD,
    GRID,
    GROUNDING,
    METRICS,
    MODEL,
    MODEL_CURVE,
    PROJECTOR_CURVE,
    REPORTS_TABLE,
)
from stages.core.page.sweep import FOLDER
from tests.core.page import fake

PARAMS = Path("params.yaml")
SWEEP = FOLDER / "ladder.csv"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake.write(tmp_path, per_fact=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    return tmp_path


def test_writes_one_file_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    report.main()
    assert [path.name for path in report.PAGE.parent.iterdir()] == ["index.html"]
    assert capsys.readouterr().out.startswith("data/report/index.html: ")


def test_same_inputs_give_the_same_bytes_and_no_trace_of_the_machine(root: Path) -> None:
    written = []
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "stages.report"]
        repository = Path(report.__file__).parents[1]
        subprocess.run(
            command, check=True, env={"PYTHONPATH": str(repository), "PYTHONHASHSEED": seed}, stdout=subprocess.DEVNULL
        )
        written.append(report.PAGE.read_bytes())
    assert written[0] == written[1]
    assert str(root).encode() not in written[0] and str(repository).encode() not in written[0]


def test_a_run_of_few_entities_has_a_page_without_intervals() -> None:
    def bare(numbers: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in numbers.items() if name not in ("low", "high")}
        reason = {"reason": "found 4 entities, wanted at least 10 for an interval"} if "value" in numbers else {}
        return reason | {name: bare(value) if isinstance(value, dict) else value for name, value in kept.items()}

    metrics = json.loads(METRICS.read_text())
    del metrics["held_out_target"]
    seeds = metrics.pop("seeds")
    seeds = {seed: {key: share for key, share in one.items() if "held_out" not in key} for seed, one in seeds.items()}
    METRICS.write_text(json.dumps({**{key: bare(group) for key, group in metrics.items()}, "seeds": seeds}))
    GROUNDING.write_text(json.dumps(bare(json.loads(GROUNDING.read_text()))))
    report.main()
    assert "95 percent interval" not in report.PAGE.read_text().split('id="sweep')[0]


def put(path: Path, key: str, value: object) -> Callable[[], None]:
    """Sets a dotted key of a JSON file; `...` takes it out."""

    def change() -> None:
        whole = json.loads(path.read_text())
        *parents, last = key.split(".")
        inner = whole
        for parent in parents:
            inner = inner[parent]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        path.write_text(json.dumps(whole))

    return change


def text(path: Path, old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        found = path.read_text()
        assert old in found
        path.write_text(found.replace(old, new, 1))

    return change


def table(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[], None]:
    return lambda: change(pl.read_parquet(REPORTS_TABLE)).write_parquet(REPORTS_TABLE)


def gone(path: Path) -> Callable[[], None]:
    return path.unlink


def whole(path: Path, content: str) -> Callable[[], None]:
    return lambda: (path.write_text(content), None)[1]


BAD = {
    "params gone": (gone(PARAMS), "params.yaml: no such file"),
    "params broken": (whole(PARAMS, "a: [1"), "params.yaml: not readable as YAML"),
    "params no mapping": (whole(PARAMS, "- 1"), "params.yaml: (whole file): wanted keys with values (found [1])"),
    "section gone": (text(PARAMS, "report:", "repot:"), "params.yaml: report: missing"),
    "key misspelt": (text(PARAMS, "examples:", "exampels:"), "params.yaml: report.examples: missing"),
    "wrong type": (text(PARAMS, "examples: 4", "examples: four"), "params.yaml: report.examples: wanted"),
    "too few": (text(PARAMS, "examples: 4", "examples: 0"), "params.yaml: report.examples: wanted"),
    **{
        f"{path.name} of {path.parent.name} gone": (gone(path), f"{path}: no such file")
        for path in (METRICS, GROUNDING, REPORTS_TABLE, ANSWERS_TABLE, GRID, PROJECTOR_CURVE, MODEL, CARD)
    },
    **{
        f"no {key} in {METRICS.name}": (put(METRICS, key, ...), f"{METRICS}: {key}: missing")
        for key in ("detection", "circularity", "steering", "questions", "knowledge", "seeds")
    },
    "a share explained that is text": (
        put(GROUNDING, "grounding.target_1_words.report.explained_seen.value", "all"),
        f"{GROUNDING}: grounding.target_1_words.report.explained_seen.value: found 'all', wanted a finite number",
    ),
    "no rate": (put(METRICS, "detection.rate", ...), f"{METRICS}: detection.rate: missing"),
    "rate of 1.2": (put(METRICS, "detection.rate.high", 1.2), f"{METRICS}: detection.rate.high: found 1.2"),
    "a seed without its target": (
        put(METRICS, "seeds.1.decoupling_target_accuracy", ...),
        f"{METRICS}: seeds.1.decoupling_target_accuracy: missing",
    ),
    "a seed's target of 7": (
        put(METRICS, "seeds.1.decoupling_target_accuracy", 7),
        f"{METRICS}: seeds.1.decoupling_target_accuracy: found 7",
    ),
    "metrics no JSON": (whole(METRICS, "{"), f"{METRICS}: not JSON"),
    "metrics a list": (whole(METRICS, "[]"), f"{METRICS}: (whole file): found list"),
    "no decoupling": (put(METRICS, "decoupling", ...), f"{METRICS}: decoupling: missing"),
    "no target": (put(METRICS, "decoupling.target_accuracy", ...), f"{METRICS}: decoupling.target_accuracy: missing"),
    "decoupling a number": (put(METRICS, "decoupling", 1), f"{METRICS}: decoupling: found 1, wanted a group"),
    "answers of 1.2": (
        put(METRICS, "knowledge.main.raw.all.high", 1.2),
        f"{METRICS}: knowledge.main.raw.all.high: found 1.2",
    ),
    "metric NaN": (
        put(METRICS, "controls.zero.target_accuracy.value", float("nan")),
        f"{METRICS}: controls.zero.target_accuracy.value: found nan",
    ),
    "metric text": (
        put(METRICS, "ceiling.target_accuracy", "high"),
        f"{METRICS}: ceiling.target_accuracy: found 'high'",
    ),
    "metric of 1.2": (
        put(METRICS, "decoupling.host_intrusion.high", 1.2),
        f"{METRICS}: decoupling.host_intrusion.high: found 1.2",
    ),
    "column gone": (
        table(lambda rows: rows.drop("moved_to")),
        f"{REPORTS_TABLE}: column moved_to: found no such column",
    ),
    "no reports": (table(lambda rows: rows.clear()), f"{REPORTS_TABLE}: (whole file): no rows"),
    "report null": (
        table(lambda rows: rows.with_columns(report=pl.lit(None, pl.String))),
        f"{REPORTS_TABLE}: column report, row 0: empty",
    ),
    "reports cut": (whole(REPORTS_TABLE, "PAR1"), f"{REPORTS_TABLE}: not a readable Parquet file"),
    "grid column gone": (text(GRID, "host_intrusion", "hosts"), f"{GRID}: column host_intrusion: missing"),
    "grid of 7": (text(GRID, ",0.0", ",7.0"), f"{GRID}: column "),
    "curve text": (
        text(PROJECTOR_CURVE, "\n0,0,", "\n0,first,"),
        f"{PROJECTOR_CURVE}: column step: wanted finite numbers",
    ),
    "curve no validation": (
        text(PROJECTOR_CURVE, "validation_loss", "loss"),
        f"{PROJECTOR_CURVE}: column validation_loss: missing",
    ),
    "curve empty": (whole(PROJECTOR_CURVE, ""), f"{PROJECTOR_CURVE}: not a readable CSV file"),
    "model curve NaN": (
        text(MODEL_CURVE, "\n0,", "\n0,nan,1\n0,"),
        f"{MODEL_CURVE}: column facts: wanted finite numbers",
    ),
    "sweep gone": (gone(SWEEP), f"{SWEEP}: no such file, but params.yaml: report.sweeps names it"),
    "sweep without rows": (
        lambda: whole(SWEEP, SWEEP.read_text().split("\n")[0] + "\n")(),
        f"{SWEEP}: (whole file): no",
    ),
    "sweep of 7": (text(SWEEP, ",0.2,", ",7.0,"), f"{SWEEP}: column domain_accuracy: found 7.0"),
    "sweep column gone": (text(SWEEP, "held_out_target", "held"), f"{SWEEP}: column held_out_target: missing"),
    "sweep row twice": (text(SWEEP, "1,mlp,", "1,linear,"), f"{SWEEP}: Layer 1, linear: stands twice"),
    "sweep's changes twice": (
        text(SWEEP, '""mlp"",""layers"":[1]', '""linear"",""layers"":[1]'),
        f"{SWEEP}: Layer 1, linear: stands twice",
    ),
    "sweep of other keys": (
        text(SWEEP, '""mlp"",""layers"":[1]', '""mlp"",""width"":1'),
        f"{SWEEP}: column changes: found keys architecture, width, wanted architecture, layers in each row; run make",
    ),
    "sweep's changes torn": (
        text(SWEEP, '""mlp"",""layers"":[1]', '""mlp"",""lay'),
        f'{SWEEP}: column changes: found {{"architecture":"mlp","lay}}, wanted a JSON object',
    ),
    "sweep of two runs": (text(SWEEP, '[1]}",0,', '[1]}",0,x'), f"{SWEEP}: column settings: found 2 values"),
    "sweep of two seeds": (text(SWEEP, '[1]}",0,', '[1]}",1,'), f"{SWEEP}: column seeds: found 2 values"),
    "sweep of another tool gone": (gone(FOLDER / "leave_one_out.csv"), f"{FOLDER}/leave_one_out.csv: no such file"),
    "sweep of no such name": (
        text(PARAMS, "sweeps: [ladder,", "sweeps: [../up,"),
        "params.yaml: report.sweeps.0: found '../up'",
    ),
    "no versions": (put(MODEL, "versions", ...), f"{MODEL}: versions: missing"),
    "no architecture": (put(CARD, "architecture", ...), f"{CARD}: architecture: missing"),
    "no verbaliser": (put(CARD, "lora_on_the_verbaliser", ...), f"{CARD}: lora_on_the_verbaliser: missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_the_page_before_is_left(case: str) -> None:
    report.main()
    before = report.PAGE.read_bytes()
    change, message = BAD[case]
    change()
    with pytest.raises(ValueError) as raised:
        report.main()
    assert str(raised.value).startswith(message)
    assert report.PAGE.read_bytes() == before and len(list(report.PAGE.parent.iterdir())) == 1


def test_a_grid_cell_that_stands_twice_is_named() -> None:
    lines = GRID.read_text().splitlines()
    GRID.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(ValueError, match=f"{GRID}: .*, .*: stands twice"):
        report.main()


def test_help_says_what_is_read_and_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--help"])
    with pytest.raises(SystemExit):
        report.main()
    assert "data/evaluation/metrics.json" in capsys.readouterr().out
