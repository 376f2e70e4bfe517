"""DVC's experiments work here: params are set and plots compared; and the sweeps, which are stages of their own."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.core.page.inputs import METRICS
from stages.tools import params_file
from stages.tools.experiment import FOLDER
from tests.pipeline import tiny
from tests.pipeline.hermetic import faults
from tests.pipeline.warm import Warm

SWEEPS = "stages/sweeps/dvc.yaml"
RUNGS: dict[str, dict[str, Any]] = {"raw": {"architecture": "raw"}}
RUNGS |= {"subject": {"architecture": "linear", "places": ["subject"], "slots": 2, "layers": [0]}}
RUNGS |= {"linear": {"architecture": "linear"}, "whitened": {"architecture": "linear", "whiten": True}}


def ran(text: str) -> list[str]:
    return re.findall(r"^Running stage '(.*)':$", text, re.MULTILINE)


def sweep(root: Path, python: Warm, *rungs: str) -> list[str]:
    """Runs a ladder of these rungs, as make sweep does; returns the stages that it ran."""
    lines = [f"  {name}: '{json.dumps(RUNGS[name])}'" for name in rungs]
    (root / "stages/sweeps/experiments.yaml").write_text("\n".join(["experiments:", *lines, ""]), encoding="utf-8")
    return ran(tiny.command(root, "make", "-o", ".venv/.built", "sweep", warm=python).stdout)


def stale(root: Path) -> set[str]:
    """The stages of SWEEPS that are not up to date, without its path."""
    said = json.loads(tiny.command(root, "dvc", "status", SWEEPS, "--json").stdout)
    return {name.partition(":")[2] for name in said}


def rows_in(root: Path, name: str) -> list[dict[str, str]]:
    with (root / f"data/sweep/{name}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def shown(root: Path) -> dict[str, dict[str, Any]]:
    """HEAD's experiments as `dvc exp show --json` tells them: params of the projector and metrics of the evaluation."""
    baseline = json.loads(tiny.command(root, "dvc", "exp", "show", "--json").stdout)[1]
    found = {each["revs"][0]["name"]: each["revs"][0]["data"] for each in baseline["experiments"]}
    return {
        name: {
            "projector": data["params"]["params.yaml"]["data"]["projector"],
            "metrics": data["metrics"][METRICS.as_posix()]["data"],
        }
        for name, data in found.items()
    }


@pytest.fixture(scope="module")
def swept(tiny_pipeline: Path, warm_python: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tiny pipeline with nothing trained but the model, and a ladder of three rungs. Read only."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("swept") / "repository")
    tiny.edit_params(root, projector__architecture="raw")
    tiny.reproduce(root, warm_python)
    tiny.declare_sweeps(root)
    names = sweep(root, warm_python, "raw", "subject", "linear")
    assert sorted(names) == sorted([*(f"{SWEEPS}:experiment@{name}" for name in RUNGS if name != "whitened"), "report"])
    return root


def test_sweeps_are_stages_run_once_and_shown_on_the_page(swept: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(swept, tmp_path / "repository")
    rows = rows_in(root, "ladder")
    assert [(row["group"], row["name"]) for row in rows] == [
        ("Nothing trained", "raw"),
        ("A map that is trained, at the subject's last token", "subject"),
        ("A map that is trained", "linear"),
    ]
    # A linear map reads both layers of width 32, or one and fills two slots; nothing is trained of the raw direction.
    assert [int(row["parameters"]) for row in rows] == [0, 32 * 64 + 64, 2 * 32 * 32 + 32]
    usual = {"places": ["target_1", "target_2", "target_3"], "slots": 1}
    assert [json.loads(row["changes"]) for row in rows] == [
        usual | {"layers": [1]} | RUNGS["raw"],
        usual | RUNGS["subject"],
        usual | {"layers": [0, 1]} | RUNGS["linear"],
    ]
    for row in rows:
        measured = json.loads((root / FOLDER / f"{row['name']}.json").read_text(encoding="utf-8"))
        assert float(row["domain_accuracy"]) == measured["decoupling"]["domain_accuracy"]["value"]
        assert float(row["two_hop"]) == measured["two_hop"]["all"]["value"]
        assert float(row["nearest_target"]) == measured["without_model"]["target_accuracy"]["value"]
        low = measured["decoupling"]["domain_accuracy"].get("low", "")  # none, of too few entities
        assert row["domain_accuracy_low"] == str(low)
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert page.count("raw, 0 trained parameters, as on this page") == 1 and "Made with other settings" not in page
    assert "linear, 2,080 trained parameters" in page
    assert params_file.content((root / "params.yaml").read_text(encoding="utf-8"))["report"]["sweeps"] == ["ladder"]
    assert not faults(root, "report", warm_python, tmp_path / "hermetic")
    # A line more is one stage more; what has run is not run again.
    assert sweep(root, warm_python, "raw", "subject", "linear", "whitened") == [
        f"{SWEEPS}:experiment@whitened",
        "report",
    ]
    assert [json.loads(row["changes"])["whiten"] for row in rows_in(root, "ladder")] == [False, False, False, True]


def test_two_hop_questions_of_the_raw_rung_are_answered_as_in_the_evaluation(swept: Path):
    evaluated = json.loads((swept / METRICS).read_text(encoding="utf-8"))["knowledge"]["main"]
    found = json.loads((swept / FOLDER / "raw.json").read_text(encoding="utf-8"))
    assert (found["two_hop"], found["two_hop_freed"]) == (evaluated["raw"], evaluated["freed"])


def test_an_experiment_is_stale_when_what_it_used_is_edited_and_plain_repro_runs_none(
    swept: Path, warm_python: Warm, tmp_path: Path
):
    root = tiny.copied(swept, tmp_path / "repository")

    def stale_after(name: str, edited: bytes | None = None) -> set[str]:
        """The experiments that are stale while this file is edited."""
        path = root / name
        before = path.read_bytes()
        path.unlink()  # data may be a link into the cache
        path.write_bytes(before + b"\n" if edited is None else edited)
        found = {stage for stage in stale(root) if stage.startswith("experiment@")}
        path.write_bytes(before)
        return found

    every = {f"experiment@{name}" for name in ("raw", "subject", "linear")}
    assert stale_after("stages/core/page/page.css") == stale_after("stages/labellers/openai.py") == set()
    assert stale_after("stages/core/reader/training.py") == every
    assert stale_after("data/labels/music.parquet") == every
    params = (root / "params.yaml").read_bytes()
    assert stale_after("params.yaml", params.replace(b"  steps: 12\n", b"  steps: 4\n")) == every
    comment(root / "stages/core/reader/training.py")
    assert not [name for name in ran(tiny.reproduce(root, warm_python, "--dry").stdout) if SWEEPS in name]


def comment(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n# A remark.\n", encoding="utf-8")


def test_params_can_be_set_and_results_compared(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    changes = ("-S", "projector.width=8", "-S", "projector.seeds=[0]")
    done = tiny.command(root, "dvc", "exp", "run", *changes, "-n", "narrow", warm=warm_python)
    assert ran(done.stdout) == ["projector", "evaluation", "grounding", "report"]
    narrow = shown(root)["narrow"]
    assert narrow["projector"]["width"] == 8 and narrow["projector"]["seeds"] == [0]
    assert narrow["metrics"] == json.loads((root / METRICS).read_text(encoding="utf-8"))
    changed = json.loads(tiny.command(root, "dvc", "metrics", "diff", "HEAD", "narrow", "--json").stdout)
    assert METRICS.as_posix() in changed.get("diff", changed)
    plots = json.loads(tiny.command(root, "dvc", "plots", "diff", "HEAD", "narrow", "--json").stdout)["data"]
    for name in ("Training of the projector", "Conditions"):
        assert {row["rev"] for plot in plots[name] for row in rows_of(plot)} == {"HEAD", "narrow"}


def rows_of(plot: dict[str, Any]) -> list[dict[str, Any]]:
    content = plot["content"]
    return (json.loads(content) if isinstance(content, str) else content)["data"]["values"]
