"""What gets installed: the folder `stages` as the package `gradaware`, whole, and nothing else at the top."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import stages
from tests.pipeline import tiny

SETUP = tomllib.loads((tiny.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built in a copy of it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(tiny.ROOT / name, source)
    shutil.copytree(tiny.ROOT / "stages", source / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", "made"]
    done = subprocess.run(pip, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = (source / "made").glob("*.whl")
    return made


def test_every_folder_of_modules_is_a_package_that_is_installed():
    folders = [path.parent.relative_to(tiny.ROOT / "stages").parts for path in tiny.ROOT.glob("stages/**/__init__.py")]
    assert sorted(SETUP["packages"]) == sorted(".".join(("gradaware", *parts)) for parts in folders)
    modules = {path.parent for path in tiny.ROOT.glob("stages/**/*.py")}
    assert all((folder / "__init__.py").is_file() for folder in modules)


def test_the_wheel_holds_gradaware_and_every_file_that_a_module_reads(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"gradaware"}
    files = [path.relative_to(tiny.ROOT / "stages") for path in tiny.ROOT.glob("stages/**/*") if path.is_file()]
    wanted = {f"gradaware/{path.as_posix()}" for path in files if not {"__pycache__", "sweeps"} & {*path.parts}}
    assert names == wanted  # stages/sweeps declares stages of this repository, and no module reads it


def test_what_is_installed_is_imported_outside_of_the_repository(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = (
        "import sys; import gradaware, gradaware.model; assert 'transformers.trainer' not in sys.modules;"
        "from gradaware import GradientWatch, describe; assert 'stages' not in sys.modules;"
        "print(gradaware.__file__, GradientWatch.__module__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "installed/gradaware/__init__.py"), "gradaware.tools.watch"]


def test_the_public_names_are_those_of_the_public_module_and_no_others():
    from stages import public

    assert stages.__all__ == public.__all__
    assert all(getattr(stages, name) is getattr(public, name) for name in stages.__all__)
    with pytest.raises(AttributeError, match="module 'stages' has no attribute 'Describe'"):
        stages.Describe  # noqa: B018
