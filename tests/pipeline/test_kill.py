"""A stage that is killed anywhere, interrupted, or out of disk leaves no partial file, goes on, and ends the same."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.hermetic import locked, make_sandbox, outputs
from tests.pipeline.warm import Warm

KILLS = {"model": 6, "gradients": 6, "virtual_step": 6, "labels": 3, "projector": 6, "evaluation": 6}
# So that there is something to resume at this size: checkpoints every few steps, shards of a few rows.
SOONER = {
    "stages/core/neural/pocket.py": ("KEPT_EVERY = 100", "KEPT_EVERY = 10"),
    "stages/core/gradient_store.py": ("CHUNK_ROWS = 64", "CHUNK_ROWS = 8"),
}


class Stage:
    """A stage of the finished tiny repository, with its inputs in a folder of its own, and what it should write."""

    def __init__(self, root: Path, stage: str, python: Warm, folder: Path) -> None:
        self.python, self.stage = python, stage
        self.entry = next(entry for name, entry in reversed(locked(root).items()) if name.split("@")[0] == stage)
        self.arguments = self.entry["cmd"].split()[3:]
        self.root = folder / "killed"
        make_sandbox(root, self.entry, self.root)
        for name, (old, new) in SOONER.items():
            if (path := self.root / name).exists():
                text = path.read_text(encoding="utf-8")
                assert old in text, f"{name}: no {old!r}"
                path.write_text(
                    text.replace(old, new).replace("SHARD_BYTES = 32 * 2**20", "SHARD_BYTES = 1"), encoding="utf-8"
                )
        self.folder = folder
        whole = folder / "whole"
        shutil.copytree(self.root, whole)
        start = time.monotonic()
        python.run(whole, stage, *self.arguments)
        self.seconds = time.monotonic() - start
        self.expected = outputs(whole, self.entry)

    def start(self, **environment: str):
        """Starts the stage; its messages go to `log`."""
        return self.python.start(self.root, self.stage, *self.arguments, output=self.log, **environment)

    @property
    def log(self) -> Path:
        """What the stage said."""
        return self.folder / "log"

    def check_whole(self) -> None:
        """Each output is as it should be, or isn't there."""
        there = outputs(self.root, self.entry)
        for out in (item["path"] for item in self.entry["outs"]):
            if (self.root / out).exists():
                names = {name for name in self.expected if name == out or name.startswith(f"{out}/")}
                assert names == {name for name in there if name == out or name.startswith(f"{out}/")}, out
        assert all(content == self.expected[name] for name, content in there.items())

    def finish(self) -> None:
        """Runs the stage to its end and compares."""
        self.python.run(self.root, self.stage, *self.arguments)
        assert outputs(self.root, self.entry) == self.expected
        left = [path for path in (self.root / ".scratch").rglob("*") if path.is_file()]
        assert not left, left


@pytest.mark.parametrize("stage", KILLS)
def test_killed_at_random_points(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    draw = random.Random(f"kill {stage}")
    kills = 0
    while kills < KILLS[stage]:
        run = case.start()
        time.sleep(draw.uniform(0, case.seconds))
        run.kill()
        if run.wait() == 0:  # it was through; from the beginning
            shutil.rmtree(case.root / "data" / Path(case.entry["outs"][0]["path"]).parts[1])
        else:
            kills += 1
        case.check_whole()
    case.finish()


@pytest.mark.parametrize("stage", ["model", "projector"])
def test_it_goes_on_where_it_was(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """What was kept is what is used: with the kept curve altered, the output's is."""
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    kept = kill_when(case, "progress.json")
    state = json.loads(kept.read_text(encoding="utf-8"))
    assert state["step"] > 0
    state["curve"][0]["loss" if stage == "model" else "train_loss"] = 123.0
    kept.write_text(json.dumps(state), encoding="utf-8")
    case.python.run(case.root, stage, *case.arguments)
    assert "123.0" in (case.root / f"data/{stage}/curve.csv").read_text(encoding="utf-8")


def test_finished_pieces_are_not_computed_again(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    case = Stage(tiny_pipeline, "gradients", warm_python, tmp_path)
    piece = kill_when(case, "0.npz")
    arrays = dict(np.load(piece))
    arrays["target_logprob"][:] = -123
    np.savez(piece, **arrays)
    case.python.run(case.root, case.stage, *case.arguments)
    differing = {
        name.split("/")[3] for name, content in outputs(case.root, case.entry).items() if content != case.expected[name]
    }
    assert differing == {"target_logprob"}


def kill_when(case: Stage, name: str) -> Path:
    """Kills the stage as soon as a scratch file of this name is there; returns its path."""
    run = case.start()
    while not (
        found := [path for path in (case.root / ".scratch" / case.stage).rglob(name) if ".partial" not in str(path)]
    ):
        time.sleep(0.002)
    run.kill()
    assert run.wait() == -signal.SIGKILL, "it was through before it could be killed"
    found = [path for path in (case.root / ".scratch" / case.stage).rglob(name) if ".partial" not in str(path)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("stage", ["model", "evaluation"])
def test_ctrl_c_says_that_work_is_kept(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    run = case.start()
    time.sleep(0.7 * case.seconds)
    run.kill(signal.SIGINT)
    assert run.wait() == 1
    assert "stopped: finished pieces are kept in .scratch; run the same command to go on" in case.log.read_text(
        encoding="utf-8"
    )
    case.check_whole()
    case.finish()


@pytest.mark.parametrize("stage", KILLS)
def test_a_full_disk(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    largest = max(map(len, case.expected.values()))
    assert case.start(LARGEST_FILE=str(largest // 2)).wait() != 0
    case.check_whole()
    case.finish()


CUTS = {
    "a shard is gone": lambda store: shard(store).unlink(),
    "a shard is cut": lambda store: cut(shard(store)),
    "an array is gone": lambda store: shutil.rmtree(store / "activation"),
    "the description is gone": lambda store: (store / "zarr.json").unlink(),
    "the description is cut": lambda store: cut(store / "gradient/zarr.json"),
}


def shard(store: Path) -> Path:
    """A shard file of the gradients."""
    return next(path for path in store.glob("gradient/c/**/0") if path.is_file())


def cut(path: Path) -> None:
    """Halves a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("how", CUTS)
def test_a_store_that_was_cut_short_is_refused(how: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    name, entry = next(
        (name, entry) for name, entry in locked(tiny_pipeline).items() if name.startswith("virtual_step@")
    )
    make_sandbox(tiny_pipeline, entry, tmp_path / "sandbox")
    domain = name.split("@")[1]
    store = tmp_path / f"sandbox/data/gradients/{domain}.zarr"
    CUTS[how](store)
    log = tmp_path / "log"
    assert warm_python.start(tmp_path / "sandbox", "virtual_step", domain, output=log).wait() == 1
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("error:")]
    assert len(said) == 1 and f"data/gradients/{domain}.zarr" in said[0] and "dvc repro" in said[0]
    assert "Traceback" not in log.read_text(encoding="utf-8")
    assert not outputs(tmp_path / "sandbox", entry)
