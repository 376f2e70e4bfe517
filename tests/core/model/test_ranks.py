"""Two ranks on the CPU (gloo) write what one process writes; one that dies costs only its own unfinished pieces."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from stages import gradients, virtual_step
from stages.core.data import gradient_store
from stages.core.data.tables import PROMPTS, write_table
from stages.core.model import ranks
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of
from stages.core.model.ranks import launch, own, shared
from stages.core.run.errors import InputError
from stages.core.run.files import content_hash, write_json
from stages.core.run.params import Section
from tests.core.engine.families import tiny_model
from tests.core.model.test_decoder import words
from tests.pipeline.warm import Warm

ROOT = Path(__file__).parents[3]
PARAMS = """
gradients:
  layers: [0, 2]
  places: [target_1, target_2]
  keep_bits: 10
virtual_step:
  layer: 2
  step_sizes: [0.5, 1.0]
  top_tokens: 3
  continuation_tokens: 2
"""
PIPELINE = """
stages:
  gradients:
    deps: [data/model, "data/prompts/${item.domain}.parquet"]
    params: [gradients]
  virtual_step:
    deps: [data/model, "data/prompts/${item.domain}.parquet", "data/gradients/${item.domain}.zarr"]
    params: [virtual_step]
"""
# Shards of 64 rows, so that 200 prompts are four; a rank that is to die does so when it starts its second shard.
STAGES = """
import os, signal, sys
from stages import gradients, virtual_step
from stages.core.data import gradient_store
from stages.core.run.stage import run
gradient_store.SHARD_BYTES = 1
if os.environ["RANK"] == sys.argv[2]:
    real, calls = gradients.compute, []
    def dies(*given):
        calls.append(given)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    gradients.compute = dies
del sys.argv[2]
run(gradients.main)
run(virtual_step.main)
"""


def command(python: Warm, code: str = STAGES, dying: str = "none") -> list[str]:
    """Both stages as a command; `dying`: the rank that is killed on the way."""
    Path("both.py").write_text(code, encoding="utf-8")
    return [str(python.bin / "python"), "-m", "both", "places", dying]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params, dvc.yaml, a tiny model and 200 prompts; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    folder = tmp_path / "data/model"
    model = tiny_model("qwen3")
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    write_json(folder / "model.json", card_of(Decoder(model, words()), "pocket", "pocket", "0" * 40).model_dump())
    names = ["the", "capital", "of", "France", "is"]
    rows = [
        {
            "prompt_id": f"{row:016x}",
            **dict.fromkeys(("domain", "relation", "subject", "template", "kind", "split", "held_out"), "x"),
            "prompt": " ".join(names[: 2 + row % 4] * (1 + row % 3)),
            "answer": "Paris",
            "target": "New York" if row % 2 else "York",
        }
        for row in range(200)
    ]
    (tmp_path / "data/prompts").mkdir()
    write_table(tmp_path / "data/prompts/places.parquet", pl.DataFrame(rows), PROMPTS)
    return tmp_path


def hashes(folder: Path) -> tuple[str, str]:
    return content_hash(folder / "data/gradients/places.zarr"), content_hash(
        folder / "data/virtual_step/places.parquet"
    )


def test_two_ranks_write_the_same_bytes_and_a_dead_ranks_shards_are_redone(
    world: Path, warm_python: Warm, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_store, "SHARD_BYTES", 1)
    monkeypatch.setattr("sys.argv", ["stage", "places"])
    # A rank has one thread; a product of matrices may be summed in another order on two.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gradients.main()
    virtual_step.main()
    torch.set_num_threads(threads)
    alone = hashes(world)
    with pytest.raises(InputError, match=rf"rank 1 \(signal {signal.SIGKILL.value}\) ended before"):
        launch(command(warm_python, dying="1"), 2)
    left = {path.name for path in (world / ".scratch/gradients").rglob("*.npz")}
    assert "64.npz" in left
    assert "192.npz" not in left
    launch(command(warm_python), 2)
    assert not list((world / ".scratch").rglob("*.*"))
    assert hashes(world) == alone
    assert capfd.readouterr().out.count("data/gradients/places.zarr: 200 gradients") == 2


def test_ranks_with_the_same_error_say_it_once_and_end_with_one(
    world: Path, warm_python: Warm, capfd: pytest.CaptureFixture[str]
) -> None:
    (world / "params.yaml").write_text(PARAMS.replace("[0, 2]", "[0, 99]"), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        launch(command(warm_python), 2)
    assert ended.value.code == 1
    alone = subprocess.run(
        [sys.executable, "-m", "stages.gradients", "places"], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 1
    assert capfd.readouterr().err == alone.stderr
    assert alone.stderr.startswith("error: params.yaml: gradients.layers: found 99, wanted 0 to 3")
    assert alone.stderr.count("\n") == 1


def test_ranks_with_other_code_or_params_are_refused(
    world: Path, warm_python: Warm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "stages", other / "stages")
    (other / "params.yaml").write_text(PARAMS.replace("[0, 2]", "[2]"), encoding="utf-8")
    with (other / "stages/core/engine/gradients.py").open("a", encoding="utf-8") as module:
        module.write("# edited\n")
    elsewhere = f"""
import os, sys
if os.environ["RANK"] == "1":
    sys.path.insert(0, {str(other)!r})
    os.chdir({str(other)!r})
"""
    with pytest.raises(SystemExit) as ended:
        launch(command(warm_python, elsewhere + STAGES), 2)
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("error: rank 1: found params.gradients.layers, stages.core.engine.gradients other")
    assert said.count("\n") == 1
    assert not list(world.rglob("*.npz"))
    assert not (world / "data/gradients").exists()


def test_a_stage_on_one_device_and_a_rank_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = []
    monkeypatch.setattr(ranks, "launch", lambda *_: pytest.fail("started ranks"))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    shared("stages.gradients", Section(), lambda: worked.append("on one device"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    shared("stages.gradients", Section(), lambda: worked.append("as a rank"))
    assert worked == ["on one device", "as a rank"]


def test_each_piece_belongs_to_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[int] = []
    for rank in range(3):
        monkeypatch.setitem(os.environ, "RANK", str(rank))
        monkeypatch.setitem(os.environ, "WORLD_SIZE", "3")
        shares += own(range(10))
    assert sorted(shares) == list(range(10))
