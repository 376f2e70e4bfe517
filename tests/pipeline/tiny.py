"""A copy of the repository that runs in seconds: two cut-down domains, a pocket model of a few thousand weights."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.tools.closure import Closure
from stages.tools.dependencies import differences, wanted
from tests.pipeline.warm import Warm

ROOT = Path(__file__).parents[2]
DOMAINS = ("geography", "music")
FACTS = 12
LONGEST = 300
"""Seconds after which a command that hangs fails its test."""
SOURCES = ("stages", "data/questions", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
PEERS = {"permuted": {"seed": 2, "permuted": True, "tied": True}}
SMALL = {
    "model.pocket": {
        "d_model": 32,
        "layers": 2,
        "heads": 2,
        "d_head": 16,
        "steps": 72,  # few and large ones: at this width a step costs nearly the same whatever its batch
        "batch": 48,
        "slot_batch": 24,
        "learning_rate": 0.03,
        "muon_learning_rate": 0.04,
        "asked": ["capital"],
    },
    "held_out": {"names": 0.15, "kinds": [], "subjects": 0.1},
    "prompts": {"targets": 2, "further_targets": 1, "correction_templates": 1, "test": 0.3},
    "gradients": {"layers": [0, 1], "keep_bits": 10},
    "virtual_step": {"layer": 1, "step_sizes": [0.5, 1.0], "top_tokens": 4, "continuation_tokens": 2},
    "projector": {
        "architecture": "mlp",
        "layers": [1],
        "width": 16,
        "steps": 12,
        "batch": 16,
        "report_batch": 4,
        "validate_every": 6,
        "validation_batch": 8,
        "seeds": [0],
    },
    "evaluation": {"gradients": 3, "fine_tuned": 1, "edits": 1, "bootstrap": 50, "report_tokens": 6},
    "grounding": {"seeds": [0, 1], "real_steps": 4},
    "report": {"examples": 3, "sweeps": []},
}

Changes = dict[str, tuple[tuple[str, str], ...]]
"""Of files of code: texts and what stands there instead."""
SHORTER: Changes = {"stages/core/evaluate/baselines.py": (("PROBE_STEPS = 300", "PROBE_STEPS = 30"),)}
# So that there is something to resume at this size: checkpoints every few steps, shards of a few rows.
SOONER: Changes = {
    "stages/core/model/pocket.py": (("KEPT_EVERY = 100", "KEPT_EVERY = 10"),),
    "stages/core/data/gradient_store.py": (
        ("CHUNK_ROWS = 64", "CHUNK_ROWS = 8"),
        ("SHARD_BYTES = 128 * 2**20", "SHARD_BYTES = 1"),
    ),
}


def changed(root: Path, changes: Changes) -> None:
    """Makes these changes in the files that are there."""
    for name, texts in changes.items():
        if (path := root / name).exists():
            text = path.read_text(encoding="utf-8")
            for old, new in texts:
                assert old in text, f"{name}: no {old!r}"
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")


def edit_params(root: Path, **changes: Any) -> None:
    """Sets keys of params.yaml, "__" standing for the dot: `edit_params(root, projector__steps=4)`."""
    yaml = YAML()
    path = root / "params.yaml"
    content = yaml.load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parents, last = name.split("__")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def small_facts(name: str, facts: int = FACTS) -> dict[str, Any]:
    """A domain's facts file, cut down to one relation of a few facts, and one about its answers if there is one."""
    content = YAML(typ="safe").load((ROOT / "data/facts" / f"{name}.yaml").read_text(encoding="utf-8"))
    first, *others = content["relations"].items()
    few = first[1]["facts"][:facts]
    answers, kept = {fact["answer"] for fact in few}, {first[0]: few}
    for relation, body in others:
        about = [fact for fact in body["facts"] if fact["subject"] in answers]
        if len({fact["answer"] for fact in about}) > 2:
            kept[relation] = about
            break
    content["relations"] = {
        relation: {**content["relations"][relation], "facts": few} for relation, few in kept.items()
    }
    return content


def write_facts(root: Path, name: str, content: dict[str, Any]) -> None:
    """Writes data/facts/<name>.yaml."""
    path = root / "data/facts" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(content, stream)


def command(
    root: Path, *arguments: str, warm: Warm | None = None, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command in `root`. Git and DVC see a person and no settings of this machine; stages run warm if `warm`."""
    settings = {
        **os.environ,
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(root.parent / "no-settings"),
        "DVC_SYSTEM_CONFIG_DIR": str(root.parent / "no-settings"),
        "DVC_SITE_CACHE_DIR": str(root.parent / "site-cache"),
        **(env or {}),
    }  # fmt: skip
    if warm:
        settings["PATH"] = f"{warm.bin}{os.pathsep}{settings['PATH']}"
    done = subprocess.run(arguments, cwd=root, env=settings, capture_output=True, text=True, timeout=LONGEST)
    assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def make_repository(root: Path, domains: Sequence[str] = DOMAINS) -> None:
    """Writes the tiny repository, with nothing run yet, and commits it."""
    root.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "sweeps"))
        else:
            shutil.copy(source, root / name)
    changed(root, SHORTER)
    shutil.copytree(ROOT / ".dvc/plots", root / ".dvc/plots")
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    for name in domains:
        write_facts(root, name, small_facts(name))
    changes = {
        f"{section}__{key}".replace(".", "__"): value
        for section, values in SMALL.items()
        for key, value in values.items()
    }
    edit_params(root, domains=list(domains), peers=PEERS, **(changes | {"labels__lexicon": list(domains)}))
    differences(root, write=True)
    command(root, "git", "init", "-q", "-b", "main")
    save(root, "Tiny repository")


def declare_sweeps(root: Path) -> None:
    """Adds the Makefile and stages/sweeps/dvc.yaml, with no experiment declared, to a tiny repository, and commits."""
    (root / "stages/sweeps").mkdir()
    shutil.copy(ROOT / "stages/sweeps/dvc.yaml", root / "stages/sweeps")
    (root / "stages/sweeps/experiments.yaml").write_text("experiments: {}\n", encoding="utf-8")
    shutil.copy(ROOT / "Makefile", root)
    differences(root, write=True)
    save(root, "Sweeps")


def declare(root: Path) -> None:
    """Writes to a folder of data and params the dvc.yaml of its domains, without code: tests run the repository's."""
    yaml, params = YAML(), YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))
    content = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage, entry in content["stages"].items():
        entry["deps"] = [name for name in wanted(stage, entry, closure(), params)["deps"] if name.startswith("data/")]
    with (root / "dvc.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


@cache
def closure() -> Closure:
    """The repository's import graph."""
    return Closure(ROOT)


def save(root: Path, message: str) -> None:
    """Commits everything."""
    command(root, "git", "add", "-A")
    command(root, "git", "commit", "-q", "-m", message)


def reproduce(root: Path, warm: Warm, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`dvc repro`, the stages run by the warm python."""
    return command(root, "dvc", "repro", *arguments, warm=warm, check=check)


def copied(source: Path, target: Path, *names: str) -> Path:
    """A copy of a finished repository, cache and all; with names: of these files and folders of it alone."""
    for name in names or ("",):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, symlinks=True)
        else:
            shutil.copy(source / name, target / name)
    return target
