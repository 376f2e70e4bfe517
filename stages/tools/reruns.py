"""Which stages `dvc repro` would run here, and why, told without the data."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx
from dvc.exceptions import DvcException
from dvc.repo import Repo

from ..core.run.errors import InputError
from .revision import differing

PIPELINE = "dvc.yaml"
"""What `dvc repro` runs; stages/sweeps/dvc.yaml has commands of its own."""
ABSENT = ("deleted", "not in cache")
"""What DVC says of data that isn't here; that's nothing that an edit has changed."""


@dataclass(frozen=True)
class Plan:
    """`direct`: the stages whose inputs differ from dvc.lock, and what differs. `after`: what reads their outputs."""

    direct: dict[str, list[str]]
    after: dict[str, list[str]]
    gone: list[str]

    @property
    def stages(self) -> list[str]:
        """All stages that would run."""
        return [*self.direct, *self.after]


def plan(lock: dict[str, Any], params: dict[str, Any]) -> Plan:
    """What would rerun in the working tree, whose dvc.lock and params.yaml these are.

    Raises:
        InputError: dvc.yaml or dvc.lock can't be read.
    """
    try:
        with Repo(str(Path.cwd())) as repo:
            order = {stage.addressing: stage for stage in repo.index.stages if stage.path_in_repo == PIPELINE}
            graph = repo.index.graph  # from each stage to those whose outputs it reads
            status = repo.status(targets=[PIPELINE])
    except DvcException as error:
        raise InputError(f"{error}; see docs/sharing.md") from error
    direct: dict[str, list[str]] = {}
    for name, said in status.items():
        if found := causes(said, lock.get(name, {}), params):
            direct[name] = found
    for name, why in mismatches({name: lock[name] for name in order if name in lock}).items():
        direct.setdefault(name, []).extend(why)
    for name in order:
        if name not in lock:
            direct[name] = ["is new"]
    reached = {order[name] for name in direct}
    reached = reached.union(*(networkx.ancestors(graph, stage) for stage in reached))
    after = {
        name: sorted(read.addressing for read in graph.successors(stage) if read in reached)
        for name, stage in order.items()
        if stage in reached and name not in direct
    }
    return Plan(direct, after, [name for name in lock if name not in order])


def causes(said: Iterable[Any], locked: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """What DVC says of a stage, as phrases; without the data that isn't here. Of a section, the keys that differ."""
    then = locked.get("params", {}).get("params.yaml", {})
    found = []
    for item in said:
        if isinstance(item, str):
            found.append({"changed command": "its command changed"}.get(item, item))
            continue
        for kind, things in item.items():
            for path, how in things.items():
                if isinstance(how, dict):
                    for section in how:
                        sides = ({name: side[name] for name in side if name == section} for side in (then, params))
                        found += [f"param `{key}`" for key in differing(*sides)[0] or [section]]
                elif how not in ABSENT:
                    found.append(f"`{path}` {how}" + ("" if kind == "changed deps" else " (an output)"))
    return found


def mismatches(lock: dict[str, Any]) -> dict[str, list[str]]:
    """Stages that dvc.lock has read another version of a file than the one that its stage wrote."""
    made = {out["path"]: (out["md5"], name) for name, entry in lock.items() for out in entry.get("outs", [])}
    found: dict[str, list[str]] = {}
    for name, entry in lock.items():
        for dep in entry.get("deps", []):
            content, maker = made.get(dep["path"], (dep.get("md5"), ""))
            if content != dep.get("md5"):
                found.setdefault(name, []).append(f"dvc.lock has it read another `{dep['path']}` than {maker} wrote")
    return found
