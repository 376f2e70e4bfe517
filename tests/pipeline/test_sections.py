"""An edit of one section of params.yaml makes stale the stages that read that section, and no others."""

import ast
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.pipeline import tiny

CLASSES = {
    "model": ("stages/core/model/section.py", "Model"),
    "peers": ("stages/core/model/section.py", "Peer"),
    "held_out": ("stages/core/data/held_out.py", "HeldOut"),
    "prompts": ("stages/core/data/corrections.py", "Prompts"),
    "gradients": ("stages/core/engine/section.py", "Gradients"),
    "virtual_step": ("stages/core/steps/section.py", "VirtualStep"),
    "labels": ("stages/core/labels/section.py", "Labels"),
    "api": ("stages/core/api/section.py", "Api"),
    "judge": ("stages/tools/judge.py", "Judge"),
    "projector": ("stages/core/reader/section.py", "Projector"),
    "evaluation": ("stages/core/evaluate/section.py", "Evaluation"),
    "grounding": ("stages/core/grounding/section.py", "Grounding"),
    "report": ("stages/core/page/section.py", "Report"),
}
READERS = {section: {section} for section in CLASSES} | {
    "model": {"model", "peers", "evaluation"},
    "peers": {"peers", "evaluation"},
    "held_out": {"model", "peers", "prompts"},
    "api": {"prompts", "labels"},  # what may be spent: read, and no param, since it decides no output
    "judge": set(),  # of a tool
}
SHOWN = {*CLASSES} - {"api"}
"""Sections whose values the page shows."""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """The tiny repository as after a finished run: outputs are stand-ins, committed."""
    folder = tmp_path_factory.mktemp("sections")
    root = folder / "repository"
    tiny.make_repository(root)
    settings = {f"DVC_{name}_DIR": str(folder / name) for name in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")}
    with chdir(root), patch.dict("os.environ", settings), Repo() as repo:
        for out in repo.index.outs:
            path = root / out.fs_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        repo.commit("dvc.yaml", force=True)
        assert stale(repo) == set()
        yield repo


def stale(repo: Repo) -> set[str]:
    """The names of the stages that `dvc status` calls changed; all of a matrix or none of it."""
    found = [name.split("@") for name in repo.status("dvc.yaml")]
    counts = {name: sum(other == name for other, *_ in found) for name, *_ in found}
    assert all(counts[name] == len(tiny.DOMAINS) for name, *domain in found if domain)
    return {name for name, *_ in found}


def optional_key(text: str, name: str) -> str:
    """The module with one more key, which params.yaml need not have, at the end of class `name`."""
    end = class_of(text, name).end_lineno
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:end], "    added: int | None = None\n", *lines[end:]])


def other_docstring(text: str, name: str) -> str:
    """The module with another docstring of class `name`."""
    first = class_of(text, name).body[0]
    assert isinstance(first, ast.Expr), f"class {name} has no docstring"
    lines = text.splitlines(keepends=True)
    return "".join([*lines[: first.lineno - 1], '    """Said otherwise."""\n', *lines[first.end_lineno :]])


def class_of(text: str, name: str) -> ast.ClassDef:
    return next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name)


def test_every_section_is_looked_at(repo: Repo):
    content = YAML(typ="safe").load(Path(repo.root_dir, "params.yaml").read_text())
    assert content.keys() - {"domains", "questions"} == CLASSES.keys()


@pytest.mark.parametrize("edit", [optional_key, other_docstring])
@pytest.mark.parametrize("section", CLASSES)
def test_an_edit_of_a_section_s_class_makes_its_readers_stale(
    repo: Repo, section: str, edit: Callable[[str, str], str]
):
    file, name = CLASSES[section]
    path = Path(repo.root_dir, file)
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(edit(before, name), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != before
        beside = [readers for other, readers in READERS.items() if CLASSES[other][0] == file]
        assert stale(repo) == set[str]().union(*beside)
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("section", CLASSES)
def test_a_key_more_in_params_makes_the_section_s_readers_and_the_page_stale(repo: Repo, section: str):
    path = Path(repo.root_dir, "params.yaml")
    before = path.read_text(encoding="utf-8")
    try:
        tiny.edit_params(Path(repo.root_dir), **{f"{section}__added": 1})
        by_param = READERS[section] if section in SHOWN else set()
        assert stale(repo) == by_param | ({"report"} if section in SHOWN else set())
    finally:
        path.write_text(before, encoding="utf-8")
