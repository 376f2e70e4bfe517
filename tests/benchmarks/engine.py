"""Measures the gradient engine beside the tools a user would pick, on models with random weights.

Every tool runs in a process of its own (peak memory, and patches that a tool leaves behind, stay apart), one thread on
a CPU, in the same run. On a CPU the clock is the process's own seconds of processor time, so that neighbours on a
shared machine do not count. Writes tests/benchmarks/results/engine-<size>.json and .md.

  python -m tests.benchmarks.engine --size pocket S    one and four minutes on one core
  python -m tests.benchmarks.engine --size M           Qwen3-0.6B's shape: some 20 minutes, 12 GB of memory
  python -m tests.benchmarks.engine --size 4B          a CUDA device, bfloat16, model FLOPs utilisation (MFU)
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from stages.core.data.gradient_store import write_store
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.model.decoder import Decoder
from tests.benchmarks.joint import gradients_and_steps
from tests.benchmarks.work import FOUR_STEPS, GPU_SIZES, SAMPLES, SIZES, STEPS, at_the_peak, draw, marks, spent
from tests.core.engine.accuracy import accuracy
from tests.core.engine.peers import PEERS

RESULTS = Path(__file__).parent / "results"
PEER_SAMPLES = {"S": 12, "M": 3, "pocket": 60}
OURS = "ours fp32"


def build(size: str) -> PreTrainedModel:
    """A Qwen3 of that shape: float32 on the CPU, bfloat16 on a GPU."""
    width, blocks, heads, kv_heads, head, intermediate, vocabulary = SIZES[size]
    config = AutoConfig.for_model(
        "qwen3", vocab_size=vocabulary, hidden_size=width, intermediate_size=intermediate, num_hidden_layers=blocks,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head, tie_word_embeddings=size != "8B",
        max_position_embeddings=128, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    if size not in GPU_SIZES:
        return AutoModelForCausalLM.from_config(config).eval()
    if not torch.cuda.is_available():
        raise ValueError(f"--size {size}: found no CUDA device, wanted one")
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def peak(device: str) -> dict[str, float]:
    """The best matrix product measured here, in GFLOP/s: float32 and bfloat16."""
    found: dict[str, float] = {}
    many = 8192 if device == "cuda" else 1024
    for dtype in (torch.float32, torch.bfloat16):
        weight, stream = (torch.randn(many, many, device=device).to(dtype) for _ in range(2))
        best = min(seconds(partial(torch.nn.functional.linear, stream, weight), device) for _ in range(8))
        found[str(dtype).removeprefix("torch.")] = 2 * many**3 / best / 1e9
    return found


def seconds(call: Any, device: str) -> float:
    """Processor seconds on the CPU, wall seconds on a GPU (waited for)."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def resident() -> int:
    """Most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_peer(name: str, size: str) -> dict[str, Any]:
    """One peer's samples a second, on a few samples at batch 1."""
    model = build(size)
    base, peer, samples = resident(), PEERS[name](model), draw(size, PEER_SAMPLES[size] + 1)
    layers, result = marks(size), dict[str, Any]()
    own = samples[1:]
    directions = [-peer.gradient(sample, layers[1]).detach().clone() for sample in samples][1:]
    for layer in layers:
        result[f"gradient@{layer}"] = len(own) / seconds(
            lambda at=layer: [peer.gradient(one, at) for one in own], "cpu"
        )

    def steps(sizes: list[float]) -> None:
        for sample, direction in zip(own, directions, strict=True):
            for each in [0.0, *sizes]:
                peer.step(sample, layers[1], direction, each)

    step = 1 / (len(own) / seconds(lambda: steps(STEPS), "cpu"))
    result["steps"] = 1 / step
    result["gradient + 5 steps"] = 1 / (1 / result[f"gradient@{layers[1]}"] + step)
    # Every layer by itself: a gradient each (their mean cost), four forwards each, one clean forward in all.
    backward = float(np.mean([1 / result[f"gradient@{layer}"] for layer in layers]))
    blocks = SIZES[size][1]
    result["every layer x 4 steps"] = 1 / (blocks * (backward + 4 * step / 6) + step / 6)
    return {**result, "peak bytes above the weights": resident() - base}


def run_ours(size: str, count: int) -> dict[str, Any]:
    """The engine's samples a second, after a warm-up (its seconds are reported)."""
    device = "cuda" if size in GPU_SIZES else "cpu"
    decoder, samples, result = Decoder(build(size)), draw(size, count), dict[str, Any]()
    base, layers, every = resident(), marks(size), list(range(SIZES[size][1]))

    def gradient(own: list[Sample], layer: int) -> None:
        list(activation_gradients(decoder, own, [layer]))

    def both(own: list[Sample], where: list[int], sizes: list[float]) -> None:
        list(gradients_and_steps(decoder, own, where, sizes, top_tokens=20))

    few = samples[: max(4, count // 4)]
    result["warm-up seconds"] = seconds(lambda: both(samples[:2], [0], STEPS), device)
    for layer in layers:
        result[f"gradient@{layer}"] = count / seconds(lambda at=layer: gradient(samples, at), device)
    result["gradient + 5 steps"] = count / seconds(lambda: both(samples, layers[1:2], STEPS), device)
    if device == "cpu":
        result["every layer x 4 steps"] = len(few) / seconds(lambda: both(few, every, FOUR_STEPS), device)
        result["peak bytes above the weights"] = resident() - base
    else:
        result["peak bytes"] = torch.cuda.max_memory_allocated()
        tokens = np.mean([len(sample.prompt) + len(sample.target) - 1 for sample in samples])
        result["tokens a second"] = float(tokens * result[f"gradient@{layers[1]}"])
    result["peak GFLOP/s"] = peak(device)
    if device == "cpu":
        result[f"time of gradient@{layers[1]}"] = spent(lambda: gradient(few, layers[1]))
        result["time of gradient + 5 steps"] = spent(lambda: both(few, layers[1:2], STEPS))
    return {**result, "storage": storage(decoder, samples, layers[1])}


def storage(decoder: Decoder, samples: list[Sample], layer: int) -> dict[str, float]:
    """Bytes on disk and write seconds a sample, of a store at 7 kept mantissa bits (bfloat16's), a shard at least."""
    batches = list(activation_gradients(decoder, samples[:64], [layer]))
    names = ("gradient", "activation", "target_logprob", "answer_logprob", "top_token")
    piece = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names}
    piece |= {name: piece[name][:, None] for name in ("gradient", "activation")}  # one place
    times = max(1, 4096 // len(piece["gradient"]))
    rng = np.random.default_rng(0)
    piece = {name: np.concatenate([values] * times) for name, values in piece.items()}
    piece["gradient"] *= rng.uniform(0.5, 1, piece["gradient"].shape).astype(np.float32)  # no row repeats another
    piece["activation"] *= rng.uniform(0.5, 1, piece["activation"].shape).astype(np.float32)
    piece["answer_logprob"][:] = 0
    rows = len(piece["gradient"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.zarr"
        spent = seconds(lambda: write_store(path, [piece], [f"{row:016x}" for row in range(rows)], 7, {}), "cpu")
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"bytes a sample": size / rows, "seconds a sample": spent / rows}


def alone(size: str, count: int, tool: str) -> dict[str, Any]:
    """One tool's figures from a process of its own; where it is missing or fails, a line that says so."""
    command = [sys.executable, "-m", "tests.benchmarks.engine", "--size", size, "--samples", str(count), "--tool", tool]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"absent": last if "Error" in last else f"failed: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def one(tool: str, size: str, count: int) -> dict[str, Any]:
    """Runs one tool in this process."""
    torch.set_num_threads(1)
    if tool in PEERS:
        return run_peer(tool, size)
    if tool == "accuracy":
        return accuracy(build(size), draw(size, 16 if size == "M" else 64), STEPS)
    return run_ours(size, count)


def machine() -> dict[str, Any]:
    """What the figures were measured on; no names."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpu.splitlines())}
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    model = (
        f"{facts.get('model name', platform.machine())}, family {facts.get('cpu family')} model {facts.get('model')}"
    )
    return {"cpu": model, "cores": os.cpu_count(), "threads used": 1, "gpu": gpu, "torch": torch.__version__}


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found: dict[str, str] = {}
    for package in ("transformers", "nnsight", "transformer-lens"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def main() -> None:
    """Runs all tools at each size and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=SIZES, nargs="+", default=["S"], help="shapes of the model, one after another"
    )
    parser.add_argument("--samples", type=int, help=f"samples that the engine measures (default: {SAMPLES})")
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.tool:
        print(json.dumps(one(given.tool, given.size[0], given.samples)))
        return
    for size in given.size:
        run(size, given.samples or SAMPLES[size])


def run(size: str, count: int) -> None:
    """Runs all tools at one size and writes the results."""
    tools = [*PEERS, OURS, "accuracy"] if size not in GPU_SIZES else [OURS]
    found: dict[str, Any] = {"size": size, "samples": count, "date": str(date.today()), **machine()}
    found["versions"] = versions()
    for tool in tools:
        found[tool] = alone(size, count, tool)
        print(f"{size}, {tool}: {json.dumps(found[tool])}", flush=True)
    at_the_peak(found, OURS)
    write(found)


def write(found: dict[str, Any]) -> None:
    """Writes the results as JSON and as Markdown."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"engine-{found['size']}"
    stem.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(report(found), encoding="utf-8")


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown: one row a figure, one column a tool, ratios to the naive loop in brackets."""
    tools = [tool for tool in (*PEERS, OURS) if tool in found]
    lines = [f"# Engine benchmark, size {found['size']}, {found['date']}", ""]
    cores = f"{found['cores']} cores, {found['threads used']} used"
    lines += [f"{found['cpu']}; {cores}; GPU: {found['gpu']}; torch {found['torch']}", ""]
    if "versions" in found:
        lines += [", ".join(f"{package} {number}" for package, number in found["versions"].items()), ""]
    lines += ["Samples a second unless said otherwise; in brackets the ratio to the naive loop of the same run.", ""]
    naive = found.get("naive", {})
    if rates := [rate for key, rate in naive.items() if key.startswith("gradient@")]:
        spread = f"{min(rates):.3g} to {max(rates):.3g} a second between layers, {max(rates) / min(rates) - 1:.0%}"
        lines += [f"The naive loop's gradients run from {spread}: no ratio is surer than that.", ""]
    lines += [f"- {tool}: {found[tool]['absent']}" for tool in tools if "absent" in found[tool]]
    keys = dict.fromkeys(key for tool in tools for key in found[tool] if key != "absent")
    lines += [f"| | {' | '.join(tools)} |", "|---" * (len(tools) + 1) + "|"]
    for key in keys:
        cells: list[str] = []
        for tool in tools:
            value, rate = found[tool].get(key), naive.get(key.removesuffix(", at the peak"))
            cell = f"{value:,.3g}" if isinstance(value, float) else "" if value is None else json.dumps(value)
            if isinstance(value, float) and isinstance(rate, float) and tool != "naive":
                cell += f" ({value / rate:.1f}x)"
            cells.append(cell)
        lines.append(f"| {key} | {' | '.join(cells)} |")
    for key, value in found.get("accuracy", {}).items():
        lines += ["", f"- {key}: {json.dumps(value)}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
