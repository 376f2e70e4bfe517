"""DVC's experiments work here: params are set, queued, shown, plots compared; and the sweep that is made of them."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.tools import params_file
from stages.tools.sweep import METRICS, grid
from tests.pipeline import tiny
from tests.pipeline.hermetic import faults
from tests.pipeline.warm import Warm

SWEEP = f"{sys.executable} -m stages.tools.sweep --layers 1 --architectures linear mirror_mlp"
TABLE = Path("data/sweep/projector.csv")


def ran(text: str) -> list[str]:
    return re.findall(r"^Running stage '(.*)':$", text, re.MULTILINE)


def sweep(root: Path, python: Warm) -> str:
    """Runs the sweep; returns its output. Not through a pipe: DVC's worker would hold it open until it feels idle."""
    log = root.parent / "sweep.log"
    tiny.command(root, "sh", "-c", f"{SWEEP} > {log} 2>&1 || (tail {log}; false)", warm=python)
    return log.read_text(encoding="utf-8")


def shown(root: Path) -> dict[str, dict[str, Any]]:
    """HEAD's experiments as `dvc exp show --json` tells them: params of the projector and metrics of the evaluation."""
    baseline = json.loads(tiny.command(root, "dvc", "exp", "show", "--json").stdout)[1]
    found = {each["revs"][0]["name"]: each["revs"][0]["data"] for each in baseline["experiments"]}
    return {
        name: {
            "projector": data["params"]["params.yaml"]["data"]["projector"],
            "metrics": data["metrics"][METRICS]["data"],
        }
        for name, data in found.items()
    }


def test_a_sweep_is_queued_run_once_and_shown_on_the_page(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    said = sweep(root, warm_python)
    assert "2 experiments, 2 of them to be queued" in said
    assert set(ran(said)) == {"projector", "evaluation"}  # and nothing that comes before them
    found = shown(root)
    with (root / TABLE).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["layers"], row["architecture"]) for row in rows] == [("1", "linear"), ("1", "mirror_mlp")]
    assert len(found) == 2
    for row, one in zip(rows, (found[name] for name in sorted(found)), strict=True):
        assert one["projector"]["architecture"] == row["architecture"] and one["projector"]["layers"] == [1]
        for end in ("", "_low", "_high"):
            assert float(row[f"domain_accuracy{end}"]) == one["metrics"]["decoupling"][f"domain_accuracy{end}"]
    # The page shows it, and its stage reads the table by declaration.
    assert params_file.content((root / "params.yaml").read_text(encoding="utf-8"))["report"]["sweeps"] == ["projector"]
    assert ran(tiny.reproduce(root, warm_python).stdout) == ["report"]
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert 'id="sweep"' in page and "mirror mlp, as on this page" in page and "Made with other settings" not in page
    assert not faults(root, "report", warm_python, tmp_path / "hermetic")
    assert "2 experiments, 0 of them to be queued" in sweep(root, warm_python)


def test_params_can_be_set_and_results_compared(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    changes = ("-S", "projector.width=8", "-S", "projector.seeds=[0]")
    done = tiny.command(root, "dvc", "exp", "run", *changes, "-n", "narrow", warm=warm_python)
    assert ran(done.stdout) == ["projector", "evaluation", "report"]
    narrow = shown(root)["narrow"]
    assert narrow["projector"]["width"] == 8 and narrow["projector"]["seeds"] == [0]
    assert narrow["metrics"] == json.loads((root / METRICS).read_text(encoding="utf-8"))
    plots = json.loads(tiny.command(root, "dvc", "plots", "diff", "HEAD", "narrow", "--json").stdout)["data"]
    for name in ("Training of the projector", "Conditions"):
        assert {row["rev"] for plot in plots[name] for row in rows_of(plot)} == {"HEAD", "narrow"}


def rows_of(plot: dict[str, Any]) -> list[dict[str, Any]]:
    content = plot["content"]
    return (json.loads(content) if isinstance(content, str) else content)["data"]["values"]


def test_a_layer_without_gradients_and_an_unknown_architecture_are_named():
    params = {"gradients": {"layers": [0, 1]}, "projector": {"layers": [1], "architecture": "mlp", "width": 4}}
    with pytest.raises(ValueError, match=r"gradients.layers: found \[0, 1\], wanted \[2\] too"):
        grid(params, [[1], [1, 2]], ["mlp"], [0])
    with pytest.raises(ValueError, match=r"--architectures: found deep, wanted some of bias_only"):
        grid(params, [[1]], ["deep"], [0])


def test_an_experiment_s_name_holds_what_it_depends_on():
    params = {"gradients": {"layers": [0, 1]}, "projector": {"layers": [1], "architecture": "mlp", "width": 4}}
    names = {*grid(params, [[1], [0, 1]], ["mlp", "linear"], [0])}
    assert len(names) == 4 and not names & {*grid(params, [[1], [0, 1]], ["mlp", "linear"], [1])}
    params["projector"] |= {"layers": [0], "architecture": "linear", "seeds": [0, 1]}
    assert names == {*grid(params, [[1], [0, 1]], ["mlp", "linear"], [0])}  # what is swept is not in the name twice
    params["projector"]["width"] = 5
    assert not names & {*grid(params, [[1], [0, 1]], ["mlp", "linear"], [0])}
