"""A stage that is killed anywhere, interrupted, or out of disk leaves no partial file, goes on, and ends the same."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.labellers.conftest import KEY
from tests.labellers.server import Server, teacher
from tests.pipeline import tiny
from tests.pipeline.hermetic import locked, make_sandbox, outputs
from tests.pipeline.warm import Run, Warm

KILLS = {"model": 4, "gradients": 6, "virtual_step": 6, "labels": 3, "projector": 6, "evaluation": 4}


@dataclass(frozen=True)
class Whole:
    """A run that nobody kills: how many seconds it took, and what it wrote."""

    seconds: float
    outputs: dict[str, bytes]


WHOLE: dict[str, Whole] = {}
"""Of each stage, once for all tests."""


class Stage:
    """A stage of the finished tiny repository, with its inputs in a folder of its own, and what it should write."""

    def __init__(self, root: Path, stage: str, python: Warm, folder: Path) -> None:
        self.python, self.stage = python, stage
        self.entry = next(entry for name, entry in reversed(locked(root).items()) if name.split("@")[0] == stage)
        self.arguments = self.entry["cmd"].split()[3:]
        self.root = folder / "killed"
        make_sandbox(root, self.entry, self.root)
        tiny.changed(self.root, tiny.SOONER)
        self.folder = folder
        if stage not in WHOLE:
            whole = shutil.copytree(self.root, folder / "whole")
            start = time.monotonic()
            python.run(whole, stage, *self.arguments)
            WHOLE[stage] = Whole(time.monotonic() - start, outputs(whole, self.entry))
        self.seconds, self.expected = WHOLE[stage].seconds, WHOLE[stage].outputs

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

    def clear(self) -> None:
        """Removes what a run that got through has written."""
        shutil.rmtree(self.root / "data" / Path(self.entry["outs"][0]["path"]).parts[1])

    def finish(self, root: Path | None = None) -> None:
        """Runs the stage to its end and compares; in `root`, if not where it was killed."""
        root = root or self.root
        self.python.run(root, self.stage, *self.arguments)
        assert outputs(root, self.entry) == self.expected
        left = [path for path in (root / ".scratch").rglob("*") if path.is_file()]
        assert not left, left

    def pieces(self, name: str) -> list[Path]:
        """Finished scratch files of this name. Folders that the stage renames or removes meanwhile are passed over."""
        found = [
            Path(folder, name) for folder, _, names in os.walk(self.root / ".scratch" / self.stage) if name in names
        ]
        return [path for path in found if ".partial" not in str(path)]

    def wait_for_work(self, run: Run) -> None:
        """Waits until the first piece is kept; of labels, which keep none, until the first output is written."""
        while not (self.pieces(KEPT[self.stage][0]) if self.stage in KEPT else (self.root / "data/labels").exists()):
            assert Path(f"/proc/{run.pid}").exists(), "it was through before the first piece was seen"
            time.sleep(0.002)


@pytest.mark.parametrize("stage", KILLS)
def test_killed_at_random_points(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """A copy goes on after each kill, to its end; what was killed goes on too, to the next kill."""
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    draw = random.Random(f"kill {stage}")
    kills = 0
    while kills < KILLS[stage]:
        run, begun = case.start(), time.monotonic()
        time.sleep(draw.uniform(0, case.seconds))
        run.kill()
        if run.wait() == 0:  # it was through, on a machine that is less busy than it was; from the beginning
            case.seconds = min(case.seconds, 0.9 * (time.monotonic() - begun))
            case.check_whole()
            case.clear()
            continue
        kills += 1
        case.check_whole()
        case.finish(shutil.copytree(case.root, tmp_path / f"after {kills}"))


def test_dvc_repro_killed(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """With all that it started; run again, it ends as if nobody had: the same outputs, the same dvc.lock."""
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    before = (root / "dvc.lock").read_bytes()
    (out,) = locked(root)["projector"]["outs"]
    shutil.rmtree(root / out["path"])
    (root / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink()  # else DVC would take it from there
    environment = os.environ | {"PATH": f"{warm_python.bin}{os.pathsep}{os.environ['PATH']}"}
    repro = subprocess.Popen(["dvc", "repro"], cwd=root, env=environment, start_new_session=True)
    while not list((root / ".scratch").glob("projector/*/seed_0.pt")):
        assert repro.poll() is None, "it was through before it could be killed"
        time.sleep(0.002)
    os.killpg(repro.pid, signal.SIGKILL)
    repro.wait()
    for process in Path("/proc").glob("[0-9]*"):  # the warm python's fork is in another group
        if process_folder(process) == root:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
    assert not (root / "data/projector").exists()
    done = tiny.reproduce(root, warm_python)
    assert [line for line in done.stdout.splitlines() if line.startswith("Running")] == ["Running stage 'projector':"]
    assert (root / "dvc.lock").read_bytes() == before
    for entry in locked(root).values():
        assert outputs(root, entry) == outputs(tiny_pipeline, entry)


def process_folder(process: Path) -> Path | None:
    """The working directory of a process, by its folder in /proc; None if it has ended or is another user's."""
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None


def spoil_curve(name: str) -> Callable[[Path], None]:
    """Alters the loss of this name in a kept training curve."""

    def spoil(piece: Path) -> None:
        state = torch.load(piece, weights_only=True)
        assert state["step"] > 0
        state["curve"][0][name] = 123.0
        torch.save(state, piece)

    return spoil


def spoil_arrays(piece: Path) -> None:
    """Alters an array of a kept shard."""
    arrays = dict(np.load(piece))
    arrays["target_logprob"][:] = -123
    np.savez(piece, allow_pickle=False, **arrays)


def spoil_column(name: str) -> Callable[[Path], None]:
    """Alters a column of a kept table."""

    def spoil(piece: Path) -> None:
        table = pl.read_parquet(piece)
        table.with_columns(pl.lit(0.123).cast(table.schema[name]).alias(name)).write_parquet(piece)

    return spoil


# A piece that is kept early, how it is altered, and the outputs that then differ.
KEPT = {
    "model": ("state.pt", spoil_curve("facts"), {"curve.csv"}),
    "projector": ("seed_0.pt", spoil_curve("train_loss"), {"curve.csv"}),
    "gradients": ("0.npz", spoil_arrays, {"target_logprob"}),
    "virtual_step": ("0.parquet", spoil_column("kl"), {f"{tiny.DOMAINS[-1]}.parquet"}),
    "evaluation": ("real-0.parquet", spoil_column("confidence"), {"reports.parquet", "metrics.json"}),
}


@pytest.mark.parametrize("stage", KEPT)
def test_it_goes_on_where_it_was(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """What was kept is what is used: with a kept piece altered, so is the output; all else is as it should be."""
    name, spoil, altered = KEPT[stage]
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    run = case.start()
    case.wait_for_work(run)
    run.kill()
    assert run.wait() == -signal.SIGKILL, "it was through before it could be killed"
    (piece,) = case.pieces(name)
    spoil(piece)
    case.python.run(case.root, stage, *case.arguments)
    there = outputs(case.root, case.entry)
    assert there.keys() == case.expected.keys()
    differing = [set(Path(path).parts) & altered for path in there if there[path] != case.expected[path]]
    assert all(differing) and set().union(*differing) == altered


@pytest.mark.parametrize("stage", KILLS)
def test_ctrl_c_says_that_work_is_kept(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    run = case.start()
    case.wait_for_work(run)
    run.kill(signal.SIGINT)
    while (code := run.wait()) == 0:  # it was through; from the beginning
        case.clear()
        run = case.start()
        case.wait_for_work(run)
        run.kill(signal.SIGINT)
    assert code == 1
    said = case.log.read_text(encoding="utf-8")
    assert said.splitlines()[-1] == "stopped: finished pieces are kept in .scratch; run the same command to go on"
    assert "Traceback" not in said
    assert stage not in KEPT or case.pieces(KEPT[stage][0])
    case.check_whole()
    case.finish()


@pytest.mark.parametrize("stage", KILLS)
def test_a_full_disk(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """One line says which output or piece, whatever the library that was writing raised."""
    case = Stage(tiny_pipeline, stage, warm_python, tmp_path)
    largest = max(map(len, case.expected.values()))
    assert case.start(LARGEST_FILE=str(largest // 2)).wait() == 1
    said = case.log.read_text(encoding="utf-8")
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(
        rf"error: (data|\.scratch)/{stage}\b[^ ]*: File too large; "
        r"finished pieces are kept in \.scratch: run the same command again",
        error,
    )
    case.check_whole()
    case.finish()


def test_a_full_disk_while_paid_answers_come(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """What is paid for and kept is not asked for again."""
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(root, labels__backend="openai")
    log = tmp_path / "log"
    with Server(teacher) as api:
        asking = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": api.url, "LABELS_CONCURRENCY": "4"}
        assert warm_python.start(root, "labels", "music", output=log, LARGEST_FILE="200000", **asking).wait() == 1
        assert len(api.billed) > 10
        warm_python.run(root, "labels", "music", **asking)
        assert sum(api.billed.values()) - len(api.billed) <= 4  # those in flight
    assert log.read_text(encoding="utf-8") == (
        "error: answers.sqlite: disk I/O error; answers before that are kept in .cache: run the same command again\n"
    )


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
