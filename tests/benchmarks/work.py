"""What the benchmarks measure: shapes, samples, the arithmetic that each sample needs, and where the time goes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile, record_function

from stages.core.engine.samples import Sample

SIZES = {  # d_model, blocks, heads, key-value heads, head width, intermediate, vocabulary
    "pocket": (128, 4, 4, 4, 32, 256, 2000),
    "S": (512, 12, 8, 8, 64, 1536, 32000),
    "M": (1024, 28, 16, 8, 128, 3072, 151936),
    "4B": (2560, 36, 32, 8, 128, 9728, 151936),
    "8B": (4096, 36, 32, 8, 128, 12288, 151936),
}
GPU_SIZES = ("4B", "8B")
SAMPLES = {"pocket": 2000, "S": 256, "M": 96, "4B": 4096, "8B": 4096}
"""How many the engine measures where nothing else is said."""
STEPS = [0.01, 0.03, 0.1, 0.3, 1.0]
FOUR_STEPS = STEPS[1:]
PROMPT_TOKENS, TARGET_TOKENS = (16, 48), (1, 3)
KINDS = {
    "matrix products": ("linear", "mm", "bmm", "addmm"),
    "attention": ("scaled_dot_product",),
    "copies (keys and values, padding)": ("cat", "copy", "fill_", "index", "pad", "slice", "gather", "clone"),
}


def draw(size: str, count: int) -> list[Sample]:
    """Samples whose lengths run through the whole range evenly, so that any few have the mean of all."""
    rng = np.random.default_rng(0)
    low, high = PROMPT_TOKENS if size != "pocket" else (5, 15)
    span, least = high - low + 1, TARGET_TOKENS[0]

    def some(length: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, SIZES[size][-1], size=length).tolist())

    return [Sample(some(low + (17 * i) % span), some(least + i % TARGET_TOKENS[1])) for i in range(count)]


def marks(size: str) -> list[int]:
    """A low, a middle and a high layer."""
    blocks = SIZES[size][1]
    return [1, blocks // 2 - 1, blocks - 2]


def needed(size: str, samples: list[Sample], layer: int, steps: int) -> tuple[float, float]:
    """FLOPs a sample that nobody can do without: those of the prefix (all but the last prompt token), and the rest.

    Prefix: every block's matrix products and attention; of the last block its keys and values alone, since nothing
    behind them is used. Rest: last prompt token and target forward through all blocks and back through those above the
    layer (no weight has a gradient, and no prefix token); a step's position through the blocks above the layer; the
    head at answer positions and steps, back for the gradient. Attention: scores and values, of each token with those
    that it sees. Left out, as small: norms, rotary embeddings, softmax, activations.
    """
    width, blocks, heads, kv_heads, head, intermediate, vocabulary = SIZES[size]
    block = width * head * (2 * heads + 2 * kv_heads) + 3 * width * intermediate
    filled, seen, above = blocks - 1, 2 * heads * head, blocks - 1 - layer
    prompt = np.array([len(sample.prompt) for sample in samples], dtype=np.float64)
    target = np.array([len(sample.target) for sample in samples], dtype=np.float64)
    before = prompt - 1
    prefix = before * (filled * block + 2 * width * head * kv_heads) + filled * seen * before * (before + 1) / 2
    through = target * block + seen * (target * prompt + target * (target - 1) / 2)
    rest = (blocks + above) * through + 2 * target * width * vocabulary
    rest += steps * (above * (block + seen * prompt) + width * vocabulary)
    return float(2 * prefix.mean()), float(2 * rest.mean())


def at_the_peak(found: dict[str, Any], tool: str) -> None:
    """Adds to our figures what they would be at 100 % of the peak, and the share of that reached.

    At the peak every FLOP of `needed` runs at the rate of the fastest matrix product of the same process, in the type
    that the tool computes it in.

    Args:
        found: the results of a run, by tool.
        tool: our name among them.
    """
    size, middle = found["size"], marks(found["size"])[1]
    samples = draw(size, found["samples"])
    peaks = found.get(tool, {}).get("peak GFLOP/s")
    if peaks is None:
        return
    peak = peaks["bfloat16" if size in GPU_SIZES else "float32"]
    for key, steps in ((f"gradient@{middle}", 0), ("gradient + 5 steps", len(STEPS))):
        best = 1e9 * peak / sum(needed(size, samples, middle, steps))
        found[tool][f"{key}, at the peak"] = best
        found[tool][f"share of peak, {key}"] = found[tool][key] / best


def spent(call: Callable[[], object]) -> dict[str, float]:
    """Where a call's time goes on the CPU: share of each kind of operator; `Python` is what no operator ran in."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("Python"):
        call()
    shares = dict.fromkeys([*KINDS, "norms, activations, softmax, top tokens and others", "Python"], 0.0)
    for event in profiled.key_averages():
        name = event.key.rpartition("::")[2]
        found = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
        other = "Python" if event.key == "Python" else list(shares)[-2]
        shares[next(found, other)] += event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: round(share / total, 3) for kind, share in shares.items()}
