"""Runs a stage in a folder that holds only what dvc.yaml says it reads, and compares what comes out."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.pipeline import tiny
from tests.pipeline.warm import Warm

OTHERS = {"api": {"budget": 0.25, "prices": {"another-model": {"input": 9.0, "output": 9.0, "batch": 0.5}}}}
"""Sections that are no params though stages read them: here with other values, which must make no difference."""
MAY_STAY = (".cache", "__pycache__", ".scratch")
"""Folders that a stage may leave something in: git-ignored, and no stage takes data from them (.scratch: no files)."""


def locked(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.lock by name: cmd, deps, params with values, outs."""
    return YAML(typ="safe").load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]


def paths(entry: dict[str, Any], key: str) -> list[str]:
    """The paths of a stage's deps or outs."""
    return list(dict.fromkeys(item["path"] for item in entry.get(key, [])))


def files(root: Path) -> dict[str, bytes]:
    """All files below `root`, by relative name."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def outputs(root: Path, entry: dict[str, Any]) -> dict[str, bytes]:
    """The files of a stage's outs."""
    found = files(root / "data")
    return {
        f"data/{name}": content
        for name, content in found.items()
        if any(f"data/{name}" == out or f"data/{name}".startswith(out + "/") for out in paths(entry, "outs"))
    }


def make_sandbox(root: Path, entry: dict[str, Any], sandbox: Path) -> None:
    """Copies the declared deps and writes a params.yaml of the declared params, and of OTHERS.

    And every dvc.yaml: the key of the scratch folder is read there, and nothing that an output is made from.
    """
    sandbox.mkdir(parents=True)
    inits = root.glob("stages/**/__init__.py")  # empty; without them the folders were no package
    undeclared = (root / "dvc.yaml", *root.glob("stages/*/dvc.yaml"), *inits)
    tiny.copied(root, sandbox, *paths(entry, "deps"), *(str(path.relative_to(root)) for path in undeclared))
    # In the order of params.yaml, since the order of keys is nothing that DVC compares and the report page shows it.
    params = YAML().load((root / "params.yaml").read_text(encoding="utf-8"))
    declared = entry.get("params", {}).get("params.yaml", {})
    with (sandbox / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump({name: value for name, value in params.items() if name in declared} | OTHERS, stream)


def faults(root: Path, name: str, python: Warm, folder: Path) -> list[str]:
    """What is wrong with the declaration of a stage of the finished repository `root`; nothing, if all is well."""
    entry = locked(root)[name]
    sandbox = folder / "sandbox"
    make_sandbox(root, entry, sandbox)
    outside = folder / "outside"
    outside.mkdir()
    before = files(sandbox)
    _, _, module, *arguments = entry["cmd"].split()
    log = folder / "log"
    environment = {name: str(outside) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME")}
    code = python.start(sandbox, module.removeprefix("stages."), *arguments, output=log, **environment).wait()
    if code != 0:
        return [f"exit {code} with declared files and params only: {log.read_text().strip().splitlines()[-1]}"]
    after = files(sandbox)
    made = outputs(sandbox, entry)
    expected = outputs(root, entry)
    found = [f"{path}: not written" for path in expected.keys() - made.keys()]
    found += [f"{path}: other bytes" for path in expected.keys() & made.keys() if expected[path] != made[path]]
    found += [f"{path}: changed" for path in before if after.get(path) != before[path]]
    others = after.keys() - before.keys() - expected.keys()
    found += [f"{path}: written, but not declared" for path in others if not set(MAY_STAY) & set(Path(path).parts)]
    found += [f"{path}: left in the scratch folder" for path in others if path.startswith(".scratch")]
    found += [f"{path}: written outside of the repository" for path in files(outside)]
    return sorted(found)
