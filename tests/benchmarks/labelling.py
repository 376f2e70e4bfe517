"""Measures what the answer cache saves: the stage `labels` with backend openai, cold and then warm, in one run.

Each server is real HTTP on loopback. "at once" answers every request at once, so that the cold figure is the client's
own work alone, the hardest peer there is for the cache; "30 % failing" is the storm of the tests (429, 500, cut
connections, HTML and so on), with the client's default waits. Every run is a process of its own. Three clocks: the
whole process, interpreter and imports included, as `dvc repro` pays for it; the stage's work within it; and of that the
answers alone (keys, cache, server), without reading shifts, parsing and writing tables. Wall seconds; warm is the
median of several runs. Writes tests/benchmarks/results/labelling.json and .md.

  python -m tests.benchmarks.labelling                two minutes on two cores, while nothing else runs
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.labellers import world
from tests.labellers.server import Script, Server, stormy, teacher

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
SERVERS: dict[str, Script] = {"at once": teacher, "30 % failing": stormy(0.3)}
WARM_RUNS = 5
USAGE = Path(".cache/labels/usage/geography.json")
CLOCKS = ("whole process", "stage's work", "answers alone")
STAGE = """
import time
from stages.core.api import converse
from stages.labels import main
fetch, spent = converse.fetch, []

def timed(*arguments, **options):
    start = time.perf_counter()
    found = fetch(*arguments, **options)
    spent.append(time.perf_counter() - start)
    return found

converse.fetch = timed
start = time.perf_counter()
main(["geography"])
print(time.perf_counter() - start, sum(spent))
"""


def labelled(url: str) -> dict[str, float]:
    """One run of the stage: seconds by clock, and how many requests it asked."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("LABELS_")}
    settings |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "local", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", STAGE], env=settings, check=True, capture_output=True, text=True)
    whole = time.perf_counter() - start
    work, answers = map(float, done.stdout.split()[-2:])
    asked = json.loads(USAGE.read_text(encoding="utf-8"))["asked"]
    return dict(zip(CLOCKS, (whole, work, answers), strict=True)) | {"asked": asked}


def measure(script: Script, rows: int) -> dict[str, Any]:
    """Cold and warm figures with one server, in a folder of their own.

    Raises:
        ValueError: a request was paid twice, a warm run asked for something, or its labels are others.
    """
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        world.write_world(rows, backend="openai")
        output = Path("data/labels/geography.parquet")
        with Server(script) as server:
            cold = labelled(server.url)
            first = output.read_bytes()
            warm = [labelled(server.url) for _ in range(WARM_RUNS)]
            if set(server.billed.values()) != {1} or len(server.billed) != rows:
                raise ValueError(f"found {sum(server.billed.values())} paid answers, wanted one for each of {rows}")
        if any(run["asked"] for run in warm) or output.read_bytes() != first:
            raise ValueError("a warm run asked the server or gave other labels, wanted neither")
    found: dict[str, Any] = {"tries": len(server.asked)}
    for clock in CLOCKS:
        again = median(run[clock] for run in warm)
        found[clock] = {"cold": cold[clock], "warm": again, "ratio": cold[clock] / again}
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on; no names."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {name: version(name) for name in ("openai", "pydantic", "polars")}
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(), **versions}


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown, one row a server and clock."""
    versions = ", ".join(f"{name} {found[name]}" for name in ("openai", "pydantic", "polars"))
    lines = [
        f"# Labelling benchmark, {found['rows']} rows, {found['date']}",
        "",
        f"{found['cpu']}; {found['cores']} cores, the server on one of them; {versions}",
        "",
        f"Wall seconds of the stage `labels`, backend openai, 16 requests in flight; warm: median of {WARM_RUNS} runs.",
        "Every row was paid once, warm runs asked nothing and gave the same bytes (the benchmark fails otherwise).",
        "",
        "| server on loopback | clock | cold | warm | cold / warm |",
        "|---|---|---|---|---|",
    ]
    for server in SERVERS:
        for clock in CLOCKS:
            one = found[server][clock]
            lines.append(f"| {server} | {clock} | {one['cold']:.1f} | {one['warm']:.2f} | {one['ratio']:.0f}x |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures with every server and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000, help="rows to label")
    rows = parser.parse_args().rows
    found: dict[str, Any] = {"rows": rows, "date": str(date.today()), **machine()}
    for name, script in SERVERS.items():
        found[name] = measure(script, rows)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "labelling.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "labelling.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
