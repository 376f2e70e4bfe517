"""A sweep over layers and projector architectures with DVC's experiments: `make sweep`.

Each experiment trains the projector of one architecture on the gradients of some layers and evaluates it; nothing
before these two stages runs again, so the layers have to be among `gradients.layers`. Reads params.yaml, dvc.lock and
what the experiments measured. Queues those that HEAD's experiments don't hold yet, runs the queue, and writes
data/sweep/projector.csv: one row an experiment, with intervals. Then names the table under `report.sweeps` in
params.yaml, so that the page shows it. Needs a finished run whose dvc.lock is in git. On the pocket model an experiment
takes a minute or two on two cores. Killed, it goes on where it stopped.

  python -m stages.tools.sweep --layers 1 2 2+3 --architectures linear mirror_mlp
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from stages.core.files import replacing
from stages.core.neural.projectors import ARCHITECTURES
from stages.core.page.inputs import read_params
from stages.core.page.sweep import FOLDER, row_of, settings_of
from stages.core.stage import run
from stages.tools import params_file
from stages.tools.dependencies import differences

NAME = "projector"
TARGET = "evaluation"
METRICS = "data/evaluation/metrics.json"
DEFAULT = ("scalar_affine", "linear", "mlp", "mirror_mlp")
Changes = dict[str, Any]
"""What an experiment sets of section `projector`."""


def dvc(*arguments: str, shown: bool = False) -> str:
    """The output of a DVC command, or nothing if it is `shown` on the terminal.

    Raises:
        ValueError: it fails; with its last words.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, check=False, text=True, capture_output=not shown)
    if done.returncode:
        words = (done.stderr or "").strip().splitlines()
        raise ValueError(f"dvc {' '.join(arguments)}: exit {done.returncode}: {words[-1] if words else 'see above'}")
    return done.stdout or ""


def experiments() -> dict[str, dict[str, Any]]:
    """HEAD's experiments by name, queued and failed ones among them, as `dvc exp show --json` tells them."""
    baseline = json.loads(dvc("exp", "show", "--json"))[1]
    found = {}
    for experiment in baseline["experiments"] or []:
        last = experiment["revs"][0]
        found[last["name"] or experiment["name"]] = {"executor": experiment["executor"] or {}, "data": last["data"]}
    return found


def grid(
    params: dict[str, Any], layers: list[list[int]], architectures: list[str], seeds: list[int]
) -> dict[str, Changes]:
    """The experiments by name. The name holds all that they depend on, so that another run's are not taken for them.

    Raises:
        ValueError: a layer has no gradients, or an architecture isn't known.
    """
    stored = params["gradients"]["layers"]
    if missing := sorted({layer for some in layers for layer in some if layer not in stored}):
        raise ValueError(
            f"params.yaml: gradients.layers: found {stored}, wanted {missing} too; add them, run dvc repro"
        )
    if unknown := [name for name in architectures if name not in ARCHITECTURES]:
        raise ValueError(f"--architectures: found {', '.join(unknown)}, wanted some of {', '.join(ARCHITECTURES)}")
    settings = settings_of(params)[:8]
    found = {}
    for some in layers:
        for name in architectures:
            key = "-".join(["sweep", settings, name, *map(str, some), "seed", *map(str, seeds)])
            found[key] = {"architecture": name, "layers": some, "seeds": seeds}
    return found


def queue(wanted: dict[str, Changes]) -> int:
    """Queues what is neither there nor queued; returns how many.

    Raises:
        ValueError: one of them failed before.
    """
    there = experiments()
    if failed := [name for name in wanted if there.get(name, {}).get("executor", {}).get("state") == "failed"]:
        raise ValueError(
            f"{failed[0]}: failed; see why: dvc queue logs {failed[0]}; then: dvc queue remove {' '.join(failed)}"
        )
    missing = [name for name in wanted if name not in there]
    for name in missing:
        changes = [f"projector.{key}={str(value).replace(' ', '')}" for key, value in wanted[name].items()]
        dvc("exp", "run", "--queue", "--name", name, *(part for one in changes for part in ("-S", one)), TARGET)
    return len(missing)


def table(wanted: dict[str, Changes], settings: str) -> pl.DataFrame:
    """One row an experiment.

    Raises:
        ValueError: one has no metrics.
    """
    there, rows = experiments(), []
    for name, changes in wanted.items():
        data = there.get(name, {}).get("data") or {}
        metrics = data.get("metrics", {}).get(METRICS, {}).get("data")
        if not metrics:
            raise ValueError(f"{name}: no {METRICS}: it failed or was stopped; see why: dvc queue logs {name}")
        rows.append(row_of(changes, settings, metrics))
    return pl.DataFrame(rows, infer_schema_length=None)


def show_on_page() -> None:
    """Names the table in params.yaml, and with it in dvc.yaml."""
    text = params_file.read()
    shown = list(params_file.content(text)["report"]["sweeps"])
    if NAME not in shown:
        params_file.write(params_file.edited(text, {"report.sweeps": [*shown, NAME]}))
    differences(Path.cwd(), write=True)


def main(arguments: list[str] | None = None) -> None:
    """Runs the sweep and writes its table."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.tools.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--layers",
        type=lambda text: [int(layer) for layer in text.split("+")],
        nargs="+",
        help="such as 1 2 2+3; default: each of gradients.layers, and projector.layers if they are several",
    )
    parser.add_argument("--architectures", nargs="+", default=list(DEFAULT), help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the first of projector.seeds")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at once")
    options = parser.parse_args(arguments)
    params = read_params()
    own, seeds = params["projector"]["layers"], params["projector"]["seeds"][:1]
    layers = options.layers or [*([layer] for layer in params["gradients"]["layers"]), *([own] if len(own) > 1 else [])]
    wanted = grid(params, layers, options.architectures, options.seeds or seeds)
    if subprocess.run(["git", "ls-files", "--error-unmatch", "dvc.lock"], capture_output=True, check=False).returncode:
        raise ValueError("dvc.lock: not in git: experiments start from a commit; run dvc repro and commit dvc.lock")
    print(f"{len(wanted)} experiments, {queue(wanted)} of them to be queued", flush=True)
    dvc("exp", "run", "--run-all", "--jobs", str(options.jobs), shown=True)
    found = table(wanted, settings_of(params))
    path = FOLDER / f"{NAME}.csv"
    with replacing(path) as partial:
        found.write_csv(partial)
    show_on_page()
    print(f"{path}: {len(found)} experiments; commit it; dvc repro report shows it on the page")


if __name__ == "__main__":
    run(main)
