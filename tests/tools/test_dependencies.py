"""The dependency tool: dvc.yaml says what the stages read, planted mistakes are found, what people wrote is kept."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.tools.dependencies import COMMAND, differences
from tests.pipeline import tiny


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    tiny.make_repository(root)
    return root


def check(root: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "stages.tools.dependencies", "--check"]
    return subprocess.run(arguments, cwd=root, capture_output=True, text=True)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def stage(root: Path, name: str) -> dict:
    return YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]


def test_this_repository_declares_what_its_stages_read():
    assert not differences(tiny.ROOT, write=False), f"run: {COMMAND}"


def test_check_says_what_differs_and_what_to_run(repository: Path):
    assert check(repository).returncode == 0
    append(repository / "stages/labels.py", "\nimport stages.core.evaluate.scores\n")
    before = (repository / "dvc.yaml").read_bytes()
    done = check(repository)
    assert done.returncode == 1 and f"run: {COMMAND}" in done.stderr
    assert "dvc.yaml: labels: deps: lacks stages/core/evaluate/scores.py" in done.stderr
    assert (repository / "dvc.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("      - stages/core/data/corrections.py\n", "", "prompts: deps: lacks stages/core/data/corrections.py"),
        ("      - stages/core/data/corrections.py\n",
         "      - stages/core/data/corrections.py\n      - stages/core/evaluate/scores.py\n",
         "prompts: deps: has stages/core/evaluate/scores.py, which it doesn't read"),
        ("      - prompts\n", "", "prompts: params: lacks prompts"),
        ("      - prompts\n", "      - prompts\n      - domains\n",
         "prompts: params: has domains, which it doesn't read"),
        ("    params:\n      - labels\n", "    params:\n      - labels\n      - api\n",
         "labels: params: has api, which says what may be spent"),
        ("      - data/gradients/music.zarr\n", "", "projector: deps: lacks data/gradients/music.zarr"),
        ("      - data/gradients/music.zarr\n",
         "      - data/gradients/music.zarr\n      - data/gradients/sport.zarr\n",
         "projector: deps: has data/gradients/sport.zarr, which it doesn't read"),
        ("      - stages/core/page/page.css\n", "", "report: deps: lacks stages/core/page/page.css"),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(repository: Path, old: str, new: str, complaint: str):
    path = repository / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert [line for line in differences(repository, write=True) if line.startswith(f"dvc.yaml: {complaint}")]
    assert path.read_text(encoding="utf-8") == text


def test_imports_anywhere_and_files_beside_modules_count(repository: Path):
    append(
        repository / "stages/core/data/grammar.py",
        "\ndef later():\n    from stages.core.evaluate import cases\n    return cases\n",
    )
    append(repository / "stages/core/page/reports.html.j2", '\n{% include "extra.html.j2" %}\n')
    (repository / "stages/core/page/extra.html.j2").write_text("more\n")
    found = differences(repository, write=True)
    assert "dvc.yaml: model: deps: lacks stages/core/evaluate/cases.py" in found
    assert "dvc.yaml: report: deps: lacks stages/core/page/extra.html.j2" in found
    assert not differences(repository, write=False)


def test_the_chosen_teacher_is_a_dependency_with_its_prompt(repository: Path):
    tiny.edit_params(repository, labels__backend="openai")
    differences(repository, write=True)
    deps = stage(repository, "labels")["deps"]
    assert "stages/labellers/openai.py" in deps and "stages/labellers/prompt.md" in deps
    assert "stages/core/api/cache.py" in deps and "stages/labellers/local.py" not in deps


def test_the_chosen_generator_of_prompts_is_a_dependency_with_its_prompt(repository: Path):
    assert not [dep for dep in stage(repository, "prompts")["deps"] if dep.startswith("stages/core/labels/")]
    tiny.edit_params(repository, prompts__generator="openai")
    differences(repository, write=True)
    deps = stage(repository, "prompts")["deps"]
    assert "stages/generators/openai.py" in deps and "stages/generators/generator.md" in deps
    assert "stages/core/api/client.py" in deps and "stages/generators/facts.py" not in deps
    assert "stages/generators/rows.py" not in deps


def test_rows_of_ones_own_are_a_dependency_of_the_prompts_alone_and_only_where_they_are_read(repository: Path):
    before = (repository / "dvc.yaml").read_text(encoding="utf-8")
    tiny.edit_params(repository, prompts__generator="rows")
    differences(repository, write=True)
    content = YAML(typ="safe").load((repository / "dvc.yaml").read_text(encoding="utf-8"))
    assert [name for name, entry in content["stages"].items() if "data/rows" in entry["deps"]] == ["prompts"]
    tiny.edit_params(repository, prompts__generator="facts")
    differences(repository, write=True)
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == before


def test_another_import_by_name_is_refused(repository: Path):
    append(
        repository / "stages/core/data/grammar.py",
        '\nimport importlib\nimportlib.import_module("stages.core." + "cases")\n',
    )
    with pytest.raises(
        ValueError, match=r"stages/core/data/grammar.py: import_module imports by a computed name.*BY_NAME"
    ):
        differences(repository, write=False)


def test_code_in_an_init_file_is_refused(repository: Path):
    append(repository / "stages/core/__init__.py", "import os\n")
    with pytest.raises(ValueError, match=r"stages/core/__init__.py: found content, wanted an empty file"):
        differences(repository, write=False)


def test_members_follow_the_domains_and_leave_no_trace(repository: Path):
    tiny.edit_params(repository, domains=["chemistry", "history"])
    differences(repository, write=True)
    for name, kinds in {"projector": ("prompts", "gradients", "labels"), "model": ("facts",)}.items():
        deps = stage(repository, name)["deps"]
        assert {dep.split("/")[1] for dep in deps if "history" in dep} == set(kinds)
        assert not [dep for dep in deps if "geography" in dep]
    assert "data/facts/history.yaml" not in stage(repository, "labels")["deps"]  # its lexicon is a param of its own


def test_a_model_of_ones_own_is_read_from_its_folder_and_reads_no_facts(repository: Path):
    before = (repository / "dvc.yaml").read_text(encoding="utf-8")
    (repository / "models/mine").mkdir(parents=True)
    tiny.edit_params(repository, model__source="models/mine")
    differences(repository, write=True)
    assert not [dep for dep in stage(repository, "model")["deps"] if dep.startswith("data/facts")]
    assert stage(repository, "model")["params"] == ["model"]
    for name in ("model", "gradients", "virtual_step", "projector", "evaluation"):
        assert "models/mine" in stage(repository, name)["deps"], name
    assert "models/mine" not in stage(repository, "prompts")["deps"]
    tiny.edit_params(repository, model__source="pocket")
    differences(repository, write=True)
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == before


def test_comments_and_what_was_written_by_hand_stay(repository: Path):
    path = repository / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Stages and their data.")
    marked = text.replace("- data/facts/${item.domain}.yaml\n", "- data/facts/${item.domain}.yaml # by hand\n", 1)
    path.write_text(marked.replace("      - stages/core/run/errors.py\n", ""), encoding="utf-8")
    differences(repository, write=True)
    assert path.read_text(encoding="utf-8") == marked


def test_a_stage_without_a_script_and_a_missing_key_are_named(repository: Path):
    (repository / "stages/report.py").unlink()
    with pytest.raises(ValueError, match=r"stages/report.py: no such module"):
        differences(repository, write=False)
    tiny.edit_params(repository, labels={"backend": "local"})
    with pytest.raises(ValueError, match=r"params.yaml: labels.lexicon: missing"):
        differences(repository, write=False)
