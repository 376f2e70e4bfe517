"""Pieces of unfinished work are found again by what dvc.yaml declares, and by nothing less."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.core.run import scratch
from stages.core.run.errors import InputError
from stages.core.run.scratch import Scratch

PIPELINE = """
stages:
  train:
    cmd: python -m stages.train
    deps: [data/facts, data/model: {cache: false}]
    params: [train, model.seed]
  step:
    matrix: {domain: "${domains}"}
    cmd: python -m stages.step ${item.domain}
    deps: ["data/facts/${item.domain}.yaml"]
"""
BELOW = """
stages:
  sweep:
    foreach: {few: 1, many: 9}
    do:
      wdir: ../..
      cmd: python -m stages.tools.sweep ${key} ${item}
      deps: [data/model]
      params: [train.steps, other.yaml: null]
"""
FILES = {
    "dvc.yaml": PIPELINE,
    "stages/sweeps/dvc.yaml": BELOW,
    "params.yaml": "train: {steps: 3, rate: 0.1}\nmodel: {seed: 0, width: 8}\n",
    "other.yaml": "a: 1\n",
    "data/facts/art.yaml": "art",
    "data/facts/music.yaml": "music",
    "data/model": "model",
}


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with FILES; the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def write(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text(text)

    return make


def test_a_piece_is_made_once_and_cleared():
    calls = []

    def make(path: Path) -> None:
        calls.append(path)
        path.write_text("piece")

    for _ in range(2):
        assert Scratch("train").piece("a", make).read_text() == "piece"
    assert len(calls) == 1
    Scratch("train").clear()
    Scratch("train").piece("a", make)
    assert len(calls) == 2


def test_a_piece_that_is_cut_off_is_made_again():
    def cut(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scratch("train").piece("a", cut)
    assert Scratch("train").piece("a", write("whole")).read_text() == "whole"


CHANGES: dict[str, tuple[str, str, set[str]]] = {  # a file, its new text, the stages whose folder is another one
    "a file in a folder": ("data/facts/art.yaml", "ART", {"train", "step@art"}),
    "one more file in a folder": ("data/facts/law.yaml", "law", {"train"}),
    "another item's file": ("data/facts/music.yaml", "MUSIC", {"train", "step@music"}),
    "a file with options": ("data/model", "MODEL", {"train", "sweep@few"}),
    "a param of a section": ("params.yaml", FILES["params.yaml"].replace("0.1", "0.2"), {"train"}),
    "a param that is declared by itself": ("params.yaml", FILES["params.yaml"].replace("steps: 3", "steps: 4"),
                                           {"train", "sweep@few"}),
    "a param of another section's key": ("params.yaml", FILES["params.yaml"].replace("width: 8", "width: 9"), set()),
    "another params file": ("other.yaml", "a: 2\n", {"sweep@few"}),
    "what nobody declares": ("data/notes", "x", set()),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_folder_is_another_one_where_what_is_declared_differs(change: str):
    def folders() -> dict[str, Path]:
        stages = ("train", "step@art", "step@music", "sweep@few")
        return {name: Scratch(*name.split("@")).folder for name in stages}

    name, text, stages = CHANGES[change]
    before = folders()
    assert folders() == before and len(set(before.values())) == 4
    Path(name).write_text(text)
    assert {stage for stage, folder in folders().items() if folder != before[stage]} == stages


def test_other_arguments_and_other_code_find_no_pieces(monkeypatch: pytest.MonkeyPatch):
    folders = {Scratch("sweep", *items).folder for items in (("few", "1"), ("few", "2"), ("many", "1"), ("few1",))}
    assert len(folders) == 4
    monkeypatch.setattr(scratch, "code", lambda: {"stages.train": "edited"})
    assert Scratch("sweep", "few", "1").folder not in folders


def test_the_code_is_this_package_s_whatever_it_is_called(tmp_path: Path):
    """Installed, the folder `stages` is the package `gradaware`."""
    (tmp_path / "another").symlink_to(Path(scratch.__file__).parents[2])
    program = "import another.core.run.scratch as s; print(*s.code())"
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert {"another.core.run.scratch", "another.core.run.files", "torch"} <= set(done.stdout.split())


REFUSED = {
    "no dvc.yaml": ("dvc.yaml", None, "train", r"dvc.yaml: no such file: run the stage in the repository's root"),
    "no such stage": ("dvc.yaml", PIPELINE, "walk", r"dvc.yaml: stage walk: missing: wanted its entry there or in"),
    "no such dependency": ("data/model", None, "train", r"data/model: no such file or an empty folder; run the stage"),
    "no such param": ("params.yaml", "train: {}\nmodel: {}\n", "train", r"params.yaml: model.seed: missing: wanted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_stage_whose_inputs_are_unknown_is_refused(case: str):
    """A stage outside of a repository has no key, and what it makes would be taken for another's: it doesn't start."""
    name, text, stage, message = REFUSED[case]
    Path(name).unlink() if text is None else Path(name).write_text(text)
    with pytest.raises(InputError, match=message):
        Scratch(stage)
    assert not Path(".scratch").exists()
