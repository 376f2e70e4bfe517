"""Exactly what an edit touches reruns: never less, never more."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest

from stages.tools.dependencies import differences
from tests.pipeline import tiny
from tests.pipeline.hermetic import faults, locked
from tests.pipeline.warm import Warm

MATRIX = ("prompts", "gradients", "virtual_step", "labels")
GATHERING = {"projector", "evaluation", "grounding", "report"}
ALL = tiny.DOMAINS


def of(stages: Iterable[str], domains: Iterable[str]) -> set[str]:
    """The names of matrix stages."""
    return {f"{stage}@{domain}" for stage in stages for domain in domains}


def comment(name: str) -> Callable[[Path], None]:
    """Adds a line to a file that changes nothing that it does."""
    mark = {".py": "\n# A remark.\n", ".css": "\n/* A remark. */\n", ".md": "\nA remark.\n"}[Path(name).suffix]

    def edit(root: Path) -> None:
        path = root / name
        path.write_text(path.read_text(encoding="utf-8") + mark, encoding="utf-8")

    return edit


def params(**changes: object) -> Callable[[Path], None]:
    """Sets keys of params.yaml."""
    return lambda root: tiny.edit_params(root, **changes)


def other_fact(root: Path) -> None:
    """Exchanges the answers of two facts of music."""
    content = tiny.small_facts("music")
    facts = next(iter(content["relations"].values()))["facts"]
    first, second = facts[0], next(fact for fact in facts if fact["answer"] != facts[0]["answer"])
    first["answer"], second["answer"] = second["answer"], first["answer"]
    tiny.write_facts(root, "music", content)


def add_domain(root: Path) -> None:
    """Adds history: a facts file and a word in params.yaml."""
    tiny.write_facts(root, "history", tiny.small_facts("history"))
    tiny.edit_params(root, domains=[*ALL, "history"])


def rerun(root: Path, python: Warm, edit: Callable[[Path], None]) -> set[str]:
    """The stages that `dvc repro` runs after the edit and the tool that writes dvc.yaml."""
    edit(root)
    differences(root, write=True)
    return set(re.findall(r"^Running stage '(.*)':$", tiny.reproduce(root, python).stdout, re.MULTILINE))


FROM_MODEL = {"model", "peers"} | of(("gradients", "virtual_step", "labels"), ALL) | GATHERING
EVERYTHING = FROM_MODEL | of(("prompts",), ALL)
POCKET = {
    "nothing": (lambda root: None, set()),
    "a test or a page of prose": (lambda root: (root / "README.md").write_text("More."), set()),
    "the prompt of a teacher that isn't asked": (comment("stages/labellers/prompt.md"), set()),
    "the client of an API that isn't asked": (comment("stages/core/api/client.py"), set()),
    "the local teacher": (comment("stages/labellers/local.py"), of(("labels",), ALL)),
    "a fact, which the pocket model learns": (other_fact, FROM_MODEL | {"prompts@music"}),
    "a domain more, which it learns": (add_domain, FROM_MODEL | of(MATRIX, ["history"])),
    "how prompts are made, though they come out the same": (
        comment("stages/core/data/corrections.py"),
        of(("prompts",), ALL),
    ),
    "a projector param": (params(projector__steps=6), GATHERING),
    "the budget and the prices": (params(api__budget=6.0, api__prices={}), set()),
    "an evaluation param": (params(evaluation__seed=1), GATHERING - {"projector"}),
    "an evaluation file, though the numbers stay": (comment("stages/core/evaluate/conditions.py"), {"evaluation"}),
    "a core file of the gathering stages": (comment("stages/core/data/gathering.py"), GATHERING - {"report"}),
    "a core file of all stages": (comment("stages/core/run/seeds.py"), EVERYTHING),
    "the report's style": (comment("stages/core/page/page.css"), {"report"}),
}


@pytest.mark.parametrize("edit", POCKET)
def test_with_the_pocket_model(edit: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    change, expected = POCKET[edit]
    assert rerun(tiny.copied(tiny_pipeline, tmp_path / "repository"), warm_python, change) == expected


@pytest.fixture(scope="module")
def own_model(tiny_pipeline: Path, warm_python: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tiny pipeline on a model that it doesn't train: a local folder."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("own") / "repository")
    add_domain(root)
    tiny.edit_params(root, model__pocket__steps=110)  # for it has a domain more to learn
    warm_python.run(root, "model")  # a model that knows more than the pipeline asks about
    shutil.copytree(root / "data/model", root / "models/mine")
    (root / "data/facts/history.yaml").unlink()
    tiny.edit_params(root, domains=list(ALL))
    for name in ("model.json", "curve.csv"):
        (root / "models/mine" / name).unlink()
    (root / "models/mine/note.md").touch()
    rerun(root, warm_python, params(model__source="models/mine", peers={}))
    return root


OWN = {
    "a fact of the lexicon": (other_fact, of(MATRIX, ["music"]) | of(("labels",), ALL) | GATHERING),
    "the pocket model's trainer": (comment("stages/core/model/pocket.py"), {"model", "peers"}),
    "its folder, though the weights stay": (
        comment("models/mine/note.md"),
        FROM_MODEL - {"peers"} - of(("labels",), ALL),
    ),
}


@pytest.mark.parametrize("edit", OWN)
def test_with_a_model_of_ones_own(edit: str, own_model: Path, warm_python: Warm, tmp_path: Path):
    change, expected = OWN[edit]
    assert rerun(tiny.copied(own_model, tmp_path / "repository"), warm_python, change) == expected


def test_a_domain_comes_and_another_goes_without_a_trace(own_model: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(own_model, tmp_path / "repository")
    assert rerun(root, warm_python, add_domain) == of(MATRIX, ["history"]) | GATHERING
    assert rerun(root, warm_python, params(domains=["geography", "history"])) == GATHERING
    reports = pl.read_parquet(root / "data/evaluation/reports.parquet")
    assert {*reports["gradient_domain"], *reports["host_domain"]} == {"geography", "history", "none"}
    assert (root / "data/prompts/music.parquet").exists()  # what a domain left behind is there, and nothing takes it
    entries = locked(root)
    for stage in ("projector", "evaluation", "grounding"):
        assert not [dep for dep in entries[stage]["deps"] if "music" in dep["path"]]
        assert not faults(root, stage, warm_python, tmp_path / stage)


def test_the_prompt_of_an_api_teacher_reruns_labels(tiny_pipeline: Path, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(root, labels__backend="openai")
    differences(root, write=True)
    tiny.command(root, "dvc", "commit", "--force")  # as if the teacher had been asked
    assert json.loads(tiny.command(root, "dvc", "status", "--json").stdout) == {}
    comment("stages/labellers/prompt.md")(root)
    assert set(json.loads(tiny.command(root, "dvc", "status", "--json").stdout)) == of(("labels",), ALL)


@pytest.mark.parametrize("module", ["stages.prompts", "stages.labels", "stages.report"])
def test_stages_without_a_model_start_without_torch(module: str):
    code = f"import sys, {module}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, check=True)
