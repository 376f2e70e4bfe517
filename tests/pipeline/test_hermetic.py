"""Every stage gives the same bytes with nothing but its declared deps and params, and planted mistakes are caught."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.tools.dependencies import BESIDE, differences
from tests.pipeline import tiny
from tests.pipeline.hermetic import OTHERS, faults, locked, outputs
from tests.pipeline.warm import Warm

STAGES = ("model", "peers", "prompts", "gradients", "virtual_step", "labels", "projector", "evaluation", "grounding",
          "report")  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """A stage's hermetic run: its name with its domain, the folder of the run, and what was wrong with it."""

    name: str
    folder: Path
    faults: list[str]


@pytest.fixture(scope="module", params=STAGES)
def ran(
    request: pytest.FixtureRequest, tiny_pipeline: Path, warm_python: Warm, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """A stage, run once for both tests."""
    name = next(name for name in reversed(locked(tiny_pipeline)) if name.split("@")[0] == request.param)
    folder = tmp_path_factory.mktemp(request.param)
    return Ran(name, folder / "sandbox", faults(tiny_pipeline, name, warm_python, folder))


def test_declared_files_and_params_are_enough(ran: Ran):
    assert not ran.faults


def test_twice_in_the_same_folder_same_bytes(ran: Ran, tiny_pipeline: Path, warm_python: Warm):
    """The second run finds the first one's outputs and leftovers, and takes nothing from them."""
    entry = locked(tiny_pipeline)[ran.name]
    first = outputs(ran.folder, entry)
    assert first == outputs(tiny_pipeline, entry) != {}
    _, _, module, *arguments = entry["cmd"].split()
    warm_python.run(ran.folder, module.removeprefix("stages."), *arguments)
    assert outputs(ran.folder, entry) == first


def test_every_stage_is_among_those_run(tiny_pipeline: Path):
    assert {name.split("@")[0] for name in locked(tiny_pipeline)} == set(STAGES)


def test_sections_that_are_no_params_had_other_values_in_the_runs_above(tiny_pipeline: Path):
    params = YAML(typ="safe").load((tiny_pipeline / "params.yaml").read_text(encoding="utf-8"))
    assert OTHERS.keys() == BESIDE.keys() <= params.keys()
    assert not [name for name in OTHERS if OTHERS[name] == params[name]]
    for name, entry in locked(tiny_pipeline).items():
        assert not BESIDE.keys() & entry["params"]["params.yaml"].keys(), name


# What a mistake adds to a script (before its last lines), the stage, what the hermetic run says, what the tool says.
PLANTED = {
    "an import": ("import stages.core.evaluate.scores", "prompts@music",
                  "No module named 'stages.core.evaluate.scores'",
                  "lacks stages/core/evaluate/scores.py"),
    "a section": ("class More(Section):\n    domains: list\n\nread_sections(More)", "prompts@music",
                  "params.yaml: domains", "prompts: params: lacks domains"),
    "a file": ("Path('data/facts/geography.yaml').read_text()", "prompts@music", "data/facts/geography.yaml", None),
    "an output": ("Path('data/more.txt').write_text('more')", "prompts@music",
                  "data/more.txt: written, but not declared", None),
    "an output far away": ("(Path.home() / 'more.txt').write_text('more')", "prompts@music",
                           "more.txt: written outside of the repository", None),
    "a clock": ("import time; stamp = str(time.time_ns()); make_prompts = lambda *_, old=make_prompts: "
                "old(*_).with_columns(subject=pl.lit(stamp)); import polars as pl", "prompts@music",
                "data/prompts/music.parquet: other bytes", None),
}  # fmt: skip


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_caught(mistake: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    line, stage, complaint, seen_by_the_tool = PLANTED[mistake]
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    script = root / "stages" / f"{stage.split('@')[0]}.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(
        text.replace('\nif __name__ == "__main__":', f'\n{line}\n\nif __name__ == "__main__":'), encoding="utf-8"
    )
    found = faults(root, stage, warm_python, tmp_path / "run")
    assert any(complaint in fault for fault in found), found
    static = differences(root, write=False)
    assert [line for line in static if seen_by_the_tool and seen_by_the_tool in line] or seen_by_the_tool is None, (
        static
    )


def test_a_dependency_too_many_is_seen_by_the_tool_alone(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """The hermetic run can't see it, which is why there are two checks."""
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    path = root / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("- stages/prompts.py\n", "- stages/prompts.py\n      - stages/core/evaluate/scores.py\n", 1),
        encoding="utf-8",
    )
    assert "dvc.yaml: prompts: deps: has stages/core/evaluate/scores.py, which it doesn't read" in differences(
        root, write=False
    )
    assert not faults(root, "prompts@music", warm_python, tmp_path / "run")
