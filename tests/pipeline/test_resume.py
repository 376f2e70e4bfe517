"""A killed stage resumes from work on the same inputs: all that dvc.yaml declares, as DVC itself reads it."""

import re
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.stage import Stage as DvcStage

from stages.core.run.scratch import Scratch
from tests.pipeline import tiny
from tests.pipeline.hermetic import outputs
from tests.pipeline.test_kill import Stage
from tests.pipeline.warm import Warm

NAMED = re.compile(r"""\bScratch\("(\w+)\"""")
RESUMING = {name for path in (tiny.ROOT / "stages").rglob("*.py") for name in NAMED.findall(path.read_text("utf-8"))}
"""The stages that resume, by what the code says."""


@pytest.fixture(scope="module")
def declared(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tiny repository with a sweep, to be touched and put right again."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("resume") / "repository")
    tiny.declare_sweeps(root)
    (root / "stages/sweeps/experiments.yaml").write_text("tables: {}\nexperiments: {few: '{\"width\": 8}'}\n", "utf-8")
    return root


def item_of(address: str) -> tuple[str, ...]:
    """The arguments that a stage gives of an address such as stages/sweeps/dvc.yaml:leave_one_out@music."""
    return tuple(address.rpartition("@")[2:]) if "@" in address else ()


def name_of(stage: DvcStage) -> str:
    """A stage's name in its dvc.yaml, with the item of its matrix."""
    return str(stage.addressing).rpartition(":")[2]


def test_all_that_resume_are_known():
    sweeps = {"experiment", "leave_one_out", "free_words"}
    assert sweeps | {"model", "peers", "gradients", "virtual_step", "projector", "evaluation"} == RESUMING


@pytest.mark.parametrize("stage", sorted(RESUMING))
def test_each_declared_input_is_part_of_the_key(stage: str, declared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(declared)
    with Repo(str(declared)) as repo:
        found = [
            each for each in repo.index.stages if str(each.addressing).rpartition(":")[2].partition("@")[0] == stage
        ]
        files = [str(dep.fs_path) for dep in found[-1].deps if not isinstance(dep, ParamsDependency)]
        sections = [key for dep in found[-1].deps if isinstance(dep, ParamsDependency) for key in dep.params]
    items = item_of(name_of(found[-1]))
    before = Scratch(stage, *items).folder
    known = {before}

    def differs(*given: str) -> bool:
        """Whether the key is another than before, and than after each other edit: so what was edited is put right."""
        found = Scratch(stage, *given).folder
        new = found not in known
        known.add(found)
        return new

    assert len(files) > 5 and sections
    for name in files:
        path = Path(name)
        path = path if path.is_file() else max(below for below in path.rglob("*") if below.is_file())
        content = path.read_bytes()
        path.unlink()  # DVC's own is read-only, and may be a link into its cache
        path.write_bytes(content + b" ")
        assert differs(*items), name
        path.write_bytes(content)
    text = Path("params.yaml").read_bytes()
    for section in sections:
        tiny.edit_params(declared, **{section: "another"})
        assert differs(*items), section
        Path("params.yaml").write_bytes(text)
    if items:
        assert differs(tiny.DOMAINS[0] if items[0] != tiny.DOMAINS[0] else "few2")
    tiny.edit_params(declared, report__examples=7)
    assert Scratch(stage, *items).folder == before
    Path("params.yaml").write_bytes(text)


def test_prompts_that_changed_under_a_killed_projector_begin_it_anew(
    tiny_pipeline: Path, warm_python: Warm, tmp_path: Path
):
    """Labels and gradients stay as they were; the training that was begun with other prompts is not gone on with."""
    case = Stage(tiny_pipeline, "projector", warm_python, tmp_path)
    run = case.start()
    case.wait_for_work(run)
    run.kill()
    assert run.wait() == -signal.SIGKILL, "it was through before it could be killed"
    (kept,) = case.pieces("seed_0.pt")
    table = case.root / f"data/prompts/{tiny.DOMAINS[0]}.parquet"
    rows = pl.read_parquet(table)
    table.unlink()
    rows.with_columns(pl.col("prompt").reverse()).write_parquet(table)
    fresh = shutil.copytree(case.root, tmp_path / "fresh", ignore=shutil.ignore_patterns(".scratch"))
    for root in (case.root, fresh):
        warm_python.run(root, "projector")
    assert outputs(case.root, case.entry) == outputs(fresh, case.entry) != case.expected
    assert kept.exists() and case.pieces("seed_0.pt") == [kept]
