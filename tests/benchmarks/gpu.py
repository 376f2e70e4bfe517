"""Measures the pipeline and the engine on a machine with a GPU: times, memory, share of the card's peak.

Runs every stage of dvc.yaml in the working directory, one after the other and whether it is stale or not, as often as
`--runs` says; notes which outputs were other bytes than the time before; then `dvc repro`, which is to find nothing to
do. While a stage runs, nvidia-smi is asked twice a second how much of each card is in use (it does not say by whom: use
a free one). Then the engine runs on random weights of the given shape, in a process of its own. Overwrites data/ and
dvc.lock. Writes gpu.json and gpu.md to tests/benchmarks/results.

  python -m tests.benchmarks.gpu                              a CUDA device with 24 GB or more, bfloat16
  python -m tests.benchmarks.gpu --size pocket --samples 40   a trial of this command, which works without a GPU
"""

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.benchmarks.engine import OURS, RESULTS, alone, machine
from tests.benchmarks.work import SAMPLES, SIZES, at_the_peak


def command(*arguments: str) -> str:
    """Runs a command and returns what it prints."""
    return subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True).stdout


def used() -> float:
    """Gigabytes in use on the fullest card at this moment; 0 where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return 0.0
    lines = command("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits").split()
    return max(float(line) for line in lines) * 2**20 / 1e9


def watched(call: Callable[[], object]) -> dict[str, float]:
    """A call's wall seconds, and the most memory of a card in use meanwhile."""
    start, most = time.monotonic(), used()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(call)
        while not running.done():
            time.sleep(0.5)
            most = max(most, used())
    running.result()
    return {"seconds": round(time.monotonic() - start, 1), "GB of the card": round(most, 2)}


def idle() -> None:
    """A `dvc repro` that finds nothing to do."""
    printed = command("dvc", "repro")
    if "up to date" not in printed:
        raise RuntimeError(f"dvc repro ran something though all had been run:\n{printed}")


def pipeline(runs: int) -> dict[str, Any]:
    """Each stage's figures a run, the outputs that a later run made otherwise, and a `dvc repro` of nothing."""
    stages = command("dvc", "stage", "list", "--name-only").split()
    found: dict[str, Any] = {"stages": {name: [] for name in stages}, "other bytes in a later run": []}
    before: dict[str, list[dict[str, Any]]] = {}
    for _ in range(runs):
        for name in stages:
            repro = partial(subprocess.run, ["dvc", "repro", "--force", "--single-item", name], check=True)
            found["stages"][name].append(watched(repro))
            made = YAML(typ="safe").load(Path("dvc.lock"))["stages"][name]["outs"]
            earlier = before.setdefault(name, made)
            found["other bytes in a later run"] += [out["path"] for out in made if out not in earlier]
            before[name] = made
    found["repro with nothing to do"] = watched(idle)
    return found


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    where = f"{found['cpu']}; GPU: {found['gpu']}; torch {found['torch']}"
    stages = {**found["stages"], "dvc repro with nothing to do": [found["repro with nothing to do"]]}
    lines = [f"# The pipeline on a GPU, {found['date']}", "", where, ""]
    lines += ["| stage | seconds, run by run | most GB of the card in use |", "|---|---|---|"]
    for name, rows in stages.items():
        times = ", ".join(str(row["seconds"]) for row in rows)
        lines.append(f"| {name} | {times} | {max(row['GB of the card'] for row in rows)} |")
    others = ", ".join(found["other bytes in a later run"]) or "none"
    lines += ["", f"Outputs that were other bytes in a later run: {others}"]
    lines += ["", f"The engine, {found['size']}, {found['samples']} samples:", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {json.dumps(value)} |" for key, value in found[OURS].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="4B", help="shape of the engine's model (default: 4B)")
    parser.add_argument("--samples", type=int, help="samples that the engine measures (default: by size)")
    parser.add_argument("--runs", type=int, default=2, help="how often every stage runs (default: 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to (default: %(default)s)")
    given = parser.parse_args()
    count = given.samples or SAMPLES[given.size]
    found = {"date": str(date.today()), **machine(), "size": given.size, "samples": count, **pipeline(given.runs)}
    found[OURS] = alone(given.size, count, OURS)
    at_the_peak(found, OURS)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (given.results / "gpu.md").write_text(report(found), encoding="utf-8")


if __name__ == "__main__":
    main()
