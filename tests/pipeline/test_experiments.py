"""DVC's experiments work here: params are set and plots compared; and the sweeps, which are stages of their own."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from stages.tools.sweep import grid, in_words, table_name

from stages.core.evaluate.estimate import from_json
from stages.core.page.inputs import METRICS
from stages.tools import params_file
from stages.tools.experiment import FOLDER
from tests.pipeline import tiny
from tests.pipeline.hermetic import faults
from tests.pipeline.warm import Warm

LORA = {"rank": 2, "alpha": 4, "learning_rate": 0.003}
ADD = {"how": "add", "block": 0, "at": "slots", "scale": 1.0}
SWEEP = ("--architectures", "linear", "mirror_mlp")
ZOO = (
    "--name", "zoo", "--architectures", "linear", "--set", "whiten=true",
    "lora={rank: 2, alpha: 4, learning_rate: 0.003}", "injection={how: add, block: 0, at: slots, scale: 1.0}",
)  # fmt: skip
SWEEPS = "stages/sweeps/dvc.yaml"


def ran(text: str) -> list[str]:
    return re.findall(r"^Running stage '(.*)':$", text, re.MULTILINE)


def sweep(root: Path, python: Warm, *options: str) -> list[str]:
    """Runs a sweep; returns the stages that it ran."""
    arguments = ("python", "-m", "stages.tools.sweep", "--layers", "1", *options)
    return ran(tiny.command(root, *arguments, warm=python).stdout)


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
    """The finished tiny pipeline with the first sweep run. Read only."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("swept") / "repository")
    tiny.declare_sweeps(root)
    names = sweep(root, warm_python, *SWEEP)
    assert [name.partition("@")[0] for name in names] == [f"{SWEEPS}:experiment"] * 2  # and nothing before them
    return root


def test_sweeps_are_stages_run_once_and_shown_on_the_page(swept: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(swept, tmp_path / "repository")
    assert [(row["group"], row["name"]) for row in rows_in(root, "projector")] == [
        ("Layer 1", "linear"),
        ("Layer 1", "mirror_mlp"),
    ]
    # Of another sweep, what the first has run is not run again.
    assert len(sweep(root, warm_python, *ZOO)) == 3
    zoo = rows_in(root, "zoo")
    added = "LoRA on the verbaliser (rank 2, alpha 4, learning rate 0.003)", "injection (how add, block 0)"
    assert [row["name"] for row in zoo] == ["linear", *(f"linear, {words}" for words in ("whiten", *added))]
    # Each row's numbers are those of the experiment that has its settings.
    declared = YAML(typ="safe").load((root / "stages/sweeps/experiments.yaml").read_text(encoding="utf-8"))
    found = {name: json.loads(text) for name, text in declared["experiments"].items()}
    assert len(found) == 5
    for row in (*rows_in(root, "projector"), *zoo):
        usual = {"whiten": False, "lora": None, "injection": {**ADD, "how": "replace", "block": None}}
        wanted = usual | json.loads(row["changes"]) | {"seeds": [0]}
        (name,) = [name for name, changes in found.items() if usual | changes == wanted]
        measured = json.loads((root / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        assert float(row["domain_accuracy"]) == measured["decoupling"]["domain_accuracy"]["value"]
        assert row["domain_accuracy_low"] == ""  # of so few entities there is no interval
    assert json.loads(zoo[2]["changes"])["lora"] == LORA and json.loads(zoo[3]["changes"])["injection"] == ADD
    # The page shows them, and its stage reads the tables by declaration.
    params = params_file.content((root / "params.yaml").read_text(encoding="utf-8"))
    assert params["report"]["sweeps"] == ["projector", "zoo"]
    assert ran(tiny.reproduce(root, warm_python).stdout) == ["report"]
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert page.count("mirror mlp, as on this page") == 1 and page.count("Made with other settings") == 0
    assert "that differ in architecture and layers" not in page  # there is one layer
    assert "that differ in whiten, LoRA on the verbaliser and injection," in page
    assert not faults(root, "report", warm_python, tmp_path / "hermetic")
    assert not sweep(root, warm_python, *SWEEP)
    # An experiment that no table has any more is declared no longer.
    sweep(root, warm_python, *ZOO[:4])
    declared = YAML(typ="safe").load((root / "stages/sweeps/experiments.yaml").read_text(encoding="utf-8"))
    assert len(declared["experiments"]) == 2 and set(declared["tables"]) == {"projector", "zoo"}


def test_an_experiment_with_the_usual_settings_scores_as_the_evaluation_does(swept: Path):
    (path,) = (swept / FOLDER).glob("mirror_mlp-*.json")
    evaluated = from_json(json.loads((swept / METRICS).read_text(encoding="utf-8")))
    for group, numbers in from_json(json.loads(path.read_text(encoding="utf-8"))).items():
        found = {name: replace(evaluated[group][name], chance=None, spoken=None) for name in numbers}
        assert len(numbers) > 5 and found == {name: replace(one, spoken=None) for name, one in numbers.items()}, group


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
        found = {stage.partition("-")[0] for stage in stale(root) if stage.startswith("experiment@")}
        path.write_bytes(before)
        return found

    both = {"experiment@linear", "experiment@mirror_mlp"}
    assert stale_after("stages/core/page/page.css") == stale_after("stages/labellers/openai.py") == set()
    assert stale_after("stages/core/reader/training.py") == both
    assert stale_after("data/labels/music.parquet") == both
    params = (root / "params.yaml").read_bytes()
    assert stale_after("params.yaml", params.replace(b"  steps: 12\n", b"  steps: 4\n")) == both
    comment(root / "stages/core/reader/training.py")
    assert not [name for name in ran(tiny.reproduce(root, warm_python, "--dry").stdout) if SWEEPS in name]


def comment(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n# A remark.\n", encoding="utf-8")


def test_params_can_be_set_and_results_compared(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    changes = ("-S", "projector.width=8", "-S", "projector.seeds=[0]")
    done = tiny.command(root, "dvc", "exp", "run", *changes, "-n", "narrow", warm=warm_python)
    assert ran(done.stdout) == ["projector", "evaluation", "report"]
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


@pytest.fixture
def params() -> dict[str, Any]:
    """The params of the repository, with what these tests rely on."""
    found = YAML(typ="safe").load((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"))
    found["gradients"]["layers"] = [0, 1]
    found["projector"] |= {"layers": [1], "architecture": "mlp", "width": 4, "whiten": False, "lora": None}
    return found


def test_a_layer_without_gradients_and_an_unknown_architecture_are_named(params: dict[str, Any]):
    with pytest.raises(ValueError, match=r"gradients.layers: found \[0, 1\], wanted \[2\] too"):
        grid(params, [[1], [1, 2]], ["mlp"], [0], [])
    with pytest.raises(ValueError, match=r"--architectures: found deep, wanted some of bias_only"):
        grid(params, [[1]], ["deep"], [0], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whiten", "--set whiten: wanted KEY=VALUE, the key one of section projector: injection, width,"),
        ("wide=3", "--set wide=3: wanted KEY=VALUE, the key one of section projector: injection, width,"),
        ("layers=[1]", "--set layers=[1]: wanted KEY=VALUE, .*; for layers use --layers"),
        ("whiten=soft", "--set whiten=soft: whiten: wanted a valid boolean"),
        ("lora={rank: 4}", "--set lora={rank: 4}: lora.alpha: missing: wanted this key"),
        ("injection={how: add", "--set injection={how: add: not YAML: "),
        ("width=4", "--set width=4: params.yaml has that already"),
    ],
)
def test_a_setting_that_can_t_be_is_named_before_anything_runs(params: dict[str, Any], text: str, message: str):
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(ValueError, match=pattern):
        grid(params, [[1]], ["mlp"], [0], [text])


def names(params: dict[str, Any], seed: int = 0, sets: Sequence[str] = ()) -> set[str]:
    return {*grid(params, [[1], [0, 1]], ["mlp", "linear"], [seed], list(sets))}


def test_an_experiment_s_name_holds_what_it_sets(params: dict[str, Any]):
    before = names(params)
    assert len(before) == 4 and not before & names(params, seed=1)
    assert before < names(params, sets=["whiten=true", "width=8"])  # whatever stands beside them
    params["projector"] |= {"layers": [0], "architecture": "linear", "seeds": [0, 1], "width": 5}
    assert names(params) == before  # what params.yaml has is a dependency of the stage


def test_an_experiment_says_what_it_has_of_all_that_differs(params: dict[str, Any]):
    found = grid(params, [[0, 1]], ["mlp"], [0], ["whiten=true", "width=8"])
    usual = {"architecture": "mlp", "layers": [0, 1], "whiten": False, "width": 4}
    assert [(one.group, one.name, one.changes) for one, _ in found.values()] == [
        ("Layers 0 and 1 together", "mlp", usual),
        ("Layers 0 and 1 together", "mlp, whiten", usual | {"whiten": True}),
        ("Layers 0 and 1 together", "mlp, width 8", usual | {"width": 8}),
    ]


def test_lora_is_said_to_be_on_the_verbaliser():
    assert in_words("lora", LORA, None) == "LoRA on the verbaliser (rank 2, alpha 4, learning rate 0.003)"
    assert in_words("lora", LORA, LORA | {"rank": 8}) == "LoRA on the verbaliser (rank 2)"
    assert in_words("lora", None, LORA) == "no LoRA on the verbaliser"
    assert in_words("held_out_domains", ["music", "history"], []) == "held out domains music and history"


def test_a_table_has_a_name_of_its_own():
    assert table_name("zoo") == "zoo"
    with pytest.raises(ValueError, match=r"--name: found '\.\./up', wanted small letters"):
        table_name("../up")
    with pytest.raises(ValueError, match=r"--name: found leave_one_out, wanted another"):
        table_name("leave_one_out")
