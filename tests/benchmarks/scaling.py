"""Measures the gradients stage by number of samples: cost, storage's share of it, and memory.

Runs `stages.gradients` itself (prompts table, model, engine, scratch pieces, store) on a model with random weights,
each number of samples in a folder and a process of its own, one thread. The clock is that process's seconds of
processor time, imports left out. Storage is the scratch pieces and the store, rounding and compression included.
Writes tests/benchmarks/results/scaling-<size>.json and .md.

  python -m tests.benchmarks.scaling                                    the pocket model's shape, all layers: 3 minutes
  python -m tests.benchmarks.scaling --size S --samples 256 1024        512 x 12 blocks, one layer
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stages import gradients
from stages.core.data.gradient_store import shard_rows
from stages.core.data.tables import PROMPTS, write_table
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of
from stages.core.run.params import read_sections
from tests.benchmarks.engine import RESULTS, build, machine
from tests.benchmarks.work import SIZES, draw, marks
from tests.pipeline import tiny

COUNTS = (1000, 10_000, 30_000, 100_000)
NAME = "drawn"


def layers_of(size: str) -> list[int]:
    """The layers that are stored: all of the pocket model's, as in params.yaml; else the middle one."""
    return list(range(SIZES[size][1])) if size == "pocket" else marks(size)[1:2]


def prepare(root: Path, size: str, count: int) -> None:
    """What the stage reads: params.yaml, data/model and a prompts table of random words, a token each."""
    vocabulary = SIZES[size][-1]
    names = ["<end>", "<pad>", "<unknown>", *(f"w{token}" for token in range(3, vocabulary))]
    words = Tokenizer(models.WordLevel({name: token for token, name in enumerate(names)}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=names[0], pad_token=names[1], unk_token=names[2]
    )
    folder = root / "data/model"
    folder.mkdir(parents=True)
    model = build(size)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = card_of(Decoder(model, tokenizer), "pocket", "random weights", "0" * 40)
    (folder / "model.json").write_text(card.model_dump_json(), encoding="utf-8")
    (root / "params.yaml").write_bytes((tiny.ROOT / "params.yaml").read_bytes())
    tiny.edit_params(root, domains=[NAME, "history"], gradients__layers=layers_of(size))
    tiny.declare(root)

    def text(*tokens: int) -> str:
        return " ".join(f"w{token}" for token in tokens)

    samples = draw(size, count)
    # The answer is the word after the target's first, so that the two always differ.
    answers = [3 + (sample.target[0] - 2) % (vocabulary - 3) for sample in samples]
    drawn = {
        "prompt_id": [f"{row:016x}" for row in range(count)],
        "prompt": [text(*sample.prompt) for sample in samples],
        "target": [text(*sample.target) for sample in samples],
        "answer": [text(answer) for answer in answers],
    }
    table = pl.DataFrame({name: drawn.get(name, ["-"] * count) for name in PROMPTS}, schema=PROMPTS)
    write_table(root / f"data/prompts/{NAME}.parquet", table, PROMPTS)


def measure() -> dict[str, float]:
    """Runs the stage in the working directory."""
    storage: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            result = call(*given, **named)
            storage.append(time.process_time() - start)
            return result

        return run

    np.savez, gradients.write_store = timed(np.savez), timed(gradients.write_store)
    sys.argv = ["stages.gradients", NAME]
    start = time.process_time()
    gradients.main()
    spent = time.process_time() - start
    count = len(pl.read_parquet(f"data/prompts/{NAME}.parquet"))
    written = sum(file.stat().st_size for file in Path("data/gradients").rglob("*") if file.is_file())
    return {
        "samples a second": count / spent,
        "seconds": spent,
        "storage, share of the time": sum(storage) / spent,
        "bytes on disk a sample": written / count,
        "peak MB of the process": peak(),
    }


def peak() -> float:
    """Most memory that this process has held, MB (what getrusage says counts the process that started it as well)."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def alone(size: str, count: int) -> dict[str, float]:
    """One number of samples in a folder and a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), size, count)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
        command = [sys.executable, "-m", "tests.benchmarks.scaling", "--here"]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Runs every number of samples and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["pocket", "S", "M"], default="pocket", help="shape of the model")
    parser.add_argument("--samples", type=int, nargs="+", default=list(COUNTS), help="numbers of samples")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.here:
        print(json.dumps(measure()))
        return
    layers = layers_of(given.size)
    places = read_sections(gradients.Sections).gradients.places
    shard = shard_rows(len(places) * len(layers), SIZES[given.size][0])
    facts = {"size": given.size, "layers": layers, "rows in a shard": shard, "date": str(date.today()), **machine()}
    found: dict[int, dict[str, float]] = {}
    for count in given.samples:
        found[count] = alone(given.size, count)
        print(f"{count}: {json.dumps(found[count])}", flush=True)
    stem = RESULTS / f"scaling-{given.size}"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "samples": found}, indent=2) + "\n", encoding="utf-8")
    lines = [f"# The gradients stage by number of samples, {given.size}", ""]
    lines += [f"{key}: {value}  " for key, value in facts.items() if key != "size"]
    keys = next(iter(found.values()))
    lines += ["", f"| samples | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
    lines += [f"| {count:,} | {' | '.join(f'{row[key]:,.4g}' for key in keys)} |" for count, row in found.items()]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
