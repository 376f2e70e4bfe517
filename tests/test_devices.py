"""Everything that uses a GPU runs to its end on a stand-in device, and writes what it writes on the CPU."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch

from stages.core.model.opening import best_device
from tests.benchmarks import gpu
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.pipeline.warm import Warm
from tests.tools.documented import blocks
from tests.tools.test_free_words import SHORT
from tests.tools.test_soft_prompts import FEWER

PROMPT, TARGET = "The capital of France is", "Madrid"
STAGES = {
    "gradients": ["stages.gradients", "geography"],
    "virtual_step": ["stages.virtual_step", "geography"],
    "projector": ["stages.projector"],
    "evaluation": ["stages.evaluation"],
    "describe": ["stages.tools.cli", "describe", PROMPT, "--target", TARGET, "--json"],
    "real_step": ["stages.tools.real_step", "--samples", "3"],
    "watch": ["stages.watched"],
    "audit": ["stages.tools.cli", "audit", "rows.jsonl", "--output", "data/audit/rows.jsonl"],
    "diff": [
        "stages.tools.cli",
        "diff",
        "--context",
        "Paris .",
        "--prompts",
        "rows.jsonl",
        "--output",
        "data/diff/a.jsonl",
    ],
    "suppress": ["stages.tools.suppress"],
    "concepts": ["stages.tools.concepts", "domains", "marker"],
    "soft_prompts": ["stages.tools.soft_prompts"],
    "free_words": ["stages.tools.free_words"],
}
WRITTEN = {"describe": [], "watch": [".cache/watch"], "gradients": ["data/gradients/geography.zarr"]}
"""Where their files are to be, if not in the folder of their name below data/."""
OTHERWISE = {
    "projector__architecture": "low_rank",
    "projector__whiten": True,
    "projector__lora": {"rank": 2, "alpha": 4, "learning_rate": 0.01},
}
REFUSED = {
    "a CPU operand": "x + torch.ones(3)",
    "a CPU operand in front": "torch.ones(3) * x",
    "a CPU tensor among others": "torch.cat([x, torch.ones(3)])",
    "a matrix on the CPU": "torch.ones(3, 3) @ x",
    "a sum in place on the CPU": "torch.ones(3).add_(x)",
    "a CPU number written to": "torch.tensor(1.0).add_(x.sum())",
    "a CPU index": "x[torch.tensor([0])]",
    "a CPU mask": "x[torch.ones(3) > 0]",
    "an index on the device, of a CPU tensor": "torch.ones(3)[torch.tensor([0], device=x.device)]",
    "CPU values put at an index": "x.index_put_((torch.tensor([0], device=x.device),), torch.ones(1))",
    "an embedding of CPU ids": "torch.nn.functional.embedding(torch.tensor([0]), x[None])",
    "a linear layer on the CPU": "torch.nn.Linear(3, 3)(x)",
    "another device of the kind": "x + torch.ones(3, device='standin:1')",
    "numpy": "x.numpy()",
    "numpy, unasked": "numpy.asarray(x)",
    "a generator of the CPU": "torch.rand(3, generator=torch.Generator(), device=x.device)",
    "a gradient on the CPU": "setattr(x, 'grad', torch.ones(3))",
}
ALLOWED = {
    "a CPU number": "x * torch.tensor(2.0)",
    "a CPU number as the value of a mask": "x.masked_fill(x > 0, torch.tensor(2.0))",
    "a CPU number put at an index": "x.index_put_((torch.tensor([0], device=x.device),), torch.tensor(1.0))",
    "a list as index": "x[[0, 1]]",
    "a copy there": "torch.ones(3).to(x)",
    "a copy back": "torch.ones(3).copy_(x)",
    "a row of another device": "torch.ones(2, 3).__setitem__(0, x)",
    "a list": "x.tolist()",
    "a number": "float(x.sum())",
    "a text": "f'{x.sum():.3f}'",
    "numpy after a copy": "x.cpu().numpy()",
}
PLANTED = """
import json, sys, numpy, torch
found = {}
for name, code in json.loads(sys.argv[1]).items():
    x = torch.ones(3).to("standin")
    try:
        eval(code)
        found[name] = ""
    except (RuntimeError, TypeError) as error:
        found[name] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def root(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tiny repository with the stand-in in it. Read only."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("devices") / "repository")
    tiny.declare_sweeps(root)
    shutil.copy(tiny.ROOT / "tests/stand_in.py", root / "stages/stand_in.py")
    example = blocks("watching.md", "python")[-1].replace("from gradaware", "from .public")
    (root / "stages/watched.py").write_text(example, encoding="utf-8")
    (root / "rows.jsonl").write_text(
        json.dumps({"prompt": PROMPT, "completion": f" {TARGET}"}) + "\n", encoding="utf-8"
    )
    fewer = (("RENEWED = 10", "RENEWED = 1"), ("STEPS, LONG = (20, 40, 60), 300", "STEPS, LONG = (1, 2), 3"))
    once = (("STEPS, BATCH, LEARNING_RATE = 1000", "STEPS, BATCH, LEARNING_RATE = 5"),)
    autoencoder = "stages/core/concepts/sparse_autoencoder.py"
    tiny.changed(root, {"stages/tools/suppress.py": fewer, autoencoder: once, **FEWER, **SHORT})
    shutil.copytree(tiny.ROOT / "data/contrasts", root / "data/contrasts")
    return root


def written(root: Path, name: str) -> dict[str, bytes]:
    """The files that a command is to write."""
    folders = WRITTEN.get(name, [f"data/{name}"])
    return {f"{folder}/{path}": content for folder in folders for path, content in files(root / folder).items()}


def runs(root: Path, name: str, python: Warm, folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    """What a command prints and writes, on the stand-in device and on the CPU."""
    found = []
    for options in ([], ["--cpu"]):
        copy = tiny.copied(root, folder / ("cpu" if options else "device"))
        for path in WRITTEN.get(name, [f"data/{name}"]):
            shutil.rmtree(copy / path, ignore_errors=True)
        printed = python.run(copy, "stand_in", *options, *STAGES[name])
        found.append((printed, written(copy, name)))
    return found


@pytest.mark.parametrize("name", STAGES)
def test_it_runs_on_another_device_and_its_output_is_the_same_bytes(
    name: str, root: Path, warm_python: Warm, tmp_path: Path
):
    device, cpu = runs(root, name, warm_python, tmp_path)
    if name == "describe":  # its numbers are printed as they are: on some processors a copy's last bit differs
        texts, numbers = zip(*(apart(printed) for printed, _ in (device, cpu)), strict=True)
        assert texts[0] == texts[1] and numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-6)
        return
    assert device == cpu and cpu[1]


def apart(printed: str) -> tuple[str, list[float]]:
    """A text without its numbers, and these."""
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    return re.sub(number, "", printed), [float(found) for found in re.findall(number, printed)]


def test_a_projector_behind_whitening_beside_lora_too(root: Path, warm_python: Warm, tmp_path: Path):
    changed = tiny.copied(root, tmp_path / "changed")
    tiny.edit_params(changed, **OTHERWISE)
    device, cpu = runs(changed, "projector", warm_python, tmp_path / "projector")
    assert device == cpu and any("lora" in path for path in cpu[1])


def test_training_killed_on_a_device_goes_on_there(root: Path, warm_python: Warm, tmp_path: Path):
    whole, killed = (tiny.copied(root, tmp_path / name) for name in ("whole", "killed"))
    for copy in (whole, killed):
        tiny.edit_params(copy, **OTHERWISE)
    warm_python.run(whole, "stand_in", *STAGES["projector"])
    shutil.rmtree(killed / "data/projector")
    run = warm_python.start(killed, "stand_in", *STAGES["projector"])
    for _ in range(100 * tiny.LONGEST):
        if any((killed / ".scratch").rglob("seed_0.pt")) or (killed / "data/projector").exists():
            break
        time.sleep(0.01)
    run.kill()
    assert run.wait() and not (killed / "data/projector").exists(), "it had ended before it was killed"
    warm_python.run(killed, "stand_in", *STAGES["projector"])
    assert written(killed, "projector") == written(whole, "projector")


def test_the_stand_in_refuses_what_cuda_refuses(root: Path, warm_python: Warm, tmp_path: Path):
    copy = tiny.copied(root, tmp_path / "repository")
    (copy / "stages/planted.py").write_text(PLANTED, encoding="utf-8")
    found = json.loads(warm_python.run(copy, "stand_in", "stages.planted", json.dumps(REFUSED | ALLOWED)))
    assert not [name for name in REFUSED if not found[name]]
    assert not {name: found[name] for name in ALLOWED if found[name]}
    assert found["a CPU operand"].startswith("Expected all tensors to be on the same device, but found at least two")
    assert found["numpy"].startswith("can't convert standin:0 device type tensor to numpy")


def test_a_rank_takes_the_card_of_its_number_and_asks_cublas_for_the_same_bits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_device() == torch.device("cpu") and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # put back after the test, whatever the call sets
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    assert best_device() == torch.device("cuda", 1) and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_benchmark_for_gpus_runs_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage = {"cmd": "echo same > steady && date +%N > hasty", "outs": ["steady", "hasty"]}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"both": stage}}), encoding="utf-8")
    tiny.command(tmp_path, "dvc", "init", "-q", "--no-scm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    monkeypatch.setattr("sys.argv", ["gpu", "--size", "pocket", "--samples", "8", "--results", "results"])
    gpu.main()
    found = json.loads(Path("results/gpu.json").read_text(encoding="utf-8"))
    assert len(found["stages"]["both"]) == 2 and found["repro with nothing to do"]["seconds"] > 0
    assert found["other bytes in a later run"] == ["hasty"]
    assert 0 < found["ours fp32"]["share of peak, gradient + 5 steps"] < 1
    assert "| both | " in Path("results/gpu.md").read_text(encoding="utf-8")
