r"""A sweep over layers, architectures and other settings of the projector with DVC's experiments: `make sweep`.

Each experiment trains the projector of one architecture on the gradients of some layers and evaluates it, with section
`projector` as params.yaml has it; and once more for each `--set`, with that key set. Nothing before these two stages
runs again, so the layers have to be among `gradients.layers`. Reads params.yaml, dvc.lock and what the experiments
measured. Queues those that HEAD's experiments don't hold yet, runs the queue, and writes data/sweep/<name>.csv: one row
an experiment, with intervals. Then names the table under `report.sweeps` in params.yaml, so that the page shows it.
Needs a finished run whose dvc.lock is in git. On the pocket model an experiment takes a minute or two on two cores.
Killed, it goes on where it stopped.

  python -m stages.tools.sweep --layers 1 2 2+3 --architectures linear mirror_mlp
  python -m stages.tools.sweep --name zoo --layers 2+3 --set whiten=true \
    "lora={rank: 4, alpha: 8, learning_rate: 0.003}" "injection={how: add, block: 1, at: slots, scale: 1.0}"
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..core.evaluate.estimate import from_json
from ..core.page.inputs import read_params
from ..core.page.sweep import FOLDER, MADE_BY, PROJECTOR, Experiment, settings_of, table_of, words_of
from ..core.reader.projectors import ARCHITECTURES
from ..core.reader.section import Projector
from ..core.run.errors import InputError, explain, one_line
from ..core.run.files import replacing
from ..core.run.params import Name
from ..core.run.stage import run
from . import params_file
from .dependencies import differences

TARGET = "evaluation"
METRICS = "data/evaluation/metrics.json"
DEFAULT = ("scalar_affine", "linear", "mlp", "mirror_mlp")
OWN = {"architecture": "--architectures", "layers": "--layers", "seeds": "--seeds"}
"""Keys of section `projector` that have an option of their own."""
Changes = dict[str, Any]
"""What an experiment sets of section `projector`."""


def dvc(*arguments: str, shown: bool = False) -> str:
    """The output of a DVC command, or nothing if it is `shown` on the terminal.

    Raises:
        InputError: it fails; with its last words.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, check=False, text=True, capture_output=not shown)
    if done.returncode:
        words = (done.stderr or "").strip().splitlines()
        raise InputError(f"dvc {' '.join(arguments)}: exit {done.returncode}: {words[-1] if words else 'see above'}")
    return done.stdout or ""


def experiments() -> dict[str, dict[str, Any]]:
    """HEAD's experiments by name, queued and failed ones among them, as `dvc exp show --json` tells them."""
    baseline = json.loads(dvc("exp", "show", "--json"))[1]
    found = {}
    for experiment in baseline["experiments"] or []:
        last = experiment["revs"][0]
        found[last["name"] or experiment["name"]] = {"executor": experiment["executor"] or {}, "data": last["data"]}
    return found


def variant(text: str, params: dict[str, Any]) -> Changes:
    """One `--set`: "whiten=true", or "lora={rank: 4, alpha: 8, learning_rate: 0.003}"; the value is YAML.

    Raises:
        InputError: it is no key of section `projector` with a value that it may have, or params.yaml has that value.
    """
    key, equals, value = text.partition("=")
    projector, where = params["projector"], f"--set {text}"
    if not equals or key not in projector or key in OWN:
        keys = ", ".join(name for name in projector if name not in OWN)
        beside = f"; for {key} use {OWN[key]}" if key in OWN else ""
        raise InputError(f"{where}: wanted KEY=VALUE, the key one of section projector: {keys}{beside}")
    try:
        found = {key: YAML(typ="safe", pure=True).load(value)}
        Projector.model_validate(projector | found)
    except YAMLError as error:
        raise InputError(f"{where}: not YAML: {one_line(error)}") from error
    except ValidationError as error:
        raise InputError(explain(where, error)) from error
    if found[key] == projector[key]:
        raise InputError(f"{where}: params.yaml has that already: wanted another value, or no such --set")
    return found


def in_words(key: str, value: Any, usual: Any) -> str:
    """A key that is set, for the page: "whiten", "no LoRA on the verbaliser", "injection (how add, block 1)".

    Of a value that has keys itself, those that differ from `usual`, the value in params.yaml.
    """
    words = words_of(key)
    if value is True:
        return words
    if value is None or value is False:
        return f"no {words}"
    if isinstance(value, dict):
        usual = usual or {}
        parts = [f"{words_of(name)} {inner}" for name, inner in value.items() if inner != usual.get(name, ...)]
        return f"{words} ({', '.join(parts)})"
    return f"{words} {' and '.join(map(str, value)) or 'none' if isinstance(value, list) else value}"


def grid(
    params: dict[str, Any], layers: list[list[int]], architectures: list[str], seeds: list[int], sets: list[str]
) -> dict[str, Experiment]:
    """The experiments by DVC's name for them. It holds all that they depend on, so that none is taken for another.

    Raises:
        InputError: a layer has no gradients, an architecture isn't known, or one of `sets` can't be.
    """
    stored = params["gradients"]["layers"]
    if missing := sorted({layer for some in layers for layer in some if layer not in stored}):
        raise InputError(
            f"params.yaml: gradients.layers: found {stored}, wanted {missing} too; add them, run dvc repro"
        )
    if unknown := [name for name in architectures if name not in ARCHITECTURES]:
        raise InputError(f"--architectures: found {', '.join(unknown)}, wanted some of {', '.join(ARCHITECTURES)}")
    projector = params["projector"]
    variants: list[Changes] = [{}, *(variant(text, params) for text in sets)]
    usual = {key: projector[key] for one in variants for key in one}
    found = {}
    for some in layers:
        group = f"Layers {' and '.join(map(str, some))} together" if len(some) > 1 else f"Layer {some[0]}"
        for architecture in architectures:
            for one in variants:
                changes = {"architecture": architecture, "layers": some, **usual, **one}
                everything = params | {"projector": projector | changes}
                name = ", ".join([architecture, *(in_words(key, value, usual[key]) for key, value in one.items())])
                parts = ["sweep", architecture, *map(str, some), *one, "seed", *map(str, seeds)]
                found["-".join([*parts, settings_of(everything, ())[:8]])] = Experiment(group, name, changes)
    return found


def overrides(changes: Changes) -> list[str]:
    """`-S` and the change, for each of them: JSON, except that Hydra, which reads it, wants keys without quotes."""
    texts = {key: json.dumps(value, separators=(",", ":"), ensure_ascii=False) for key, value in changes.items()}
    bare = {key: re.sub(r'"(\w+)":', r"\1:", text) for key, text in texts.items()}
    return [part for key, text in bare.items() for part in ("-S", f"projector.{key}={text}")]


def queue(wanted: dict[str, Experiment], seeds: list[int]) -> int:
    """Queues what is neither there nor queued; returns how many.

    Raises:
        InputError: one of them failed before.
    """
    there = experiments()
    if failed := [name for name in wanted if there.get(name, {}).get("executor", {}).get("state") == "failed"]:
        raise InputError(
            f"{failed[0]}: failed; see why: dvc queue logs {failed[0]}; then: dvc queue remove {' '.join(failed)}"
        )
    missing = [name for name in wanted if name not in there]
    for name in missing:
        dvc("exp", "run", "--queue", "--name", name, *overrides(wanted[name].changes | {"seeds": seeds}), TARGET)
    return len(missing)


def measured(wanted: dict[str, Experiment]) -> list[dict[str, Any]]:
    """The groups of estimates in metrics.json of each experiment.

    Raises:
        InputError: one has none.
    """
    there, found = experiments(), []
    for name in wanted:
        data = there.get(name, {}).get("data") or {}
        metrics = data.get("metrics", {}).get(METRICS, {}).get("data")
        if not metrics:
            raise InputError(f"{name}: no {METRICS}: it failed or was stopped; see why: dvc queue logs {name}")
        found.append(from_json(metrics))
    return found


def publish(name: str, table: pl.DataFrame) -> None:
    """Writes data/sweep/<name>.csv and names it in params.yaml, and with that in dvc.yaml."""
    path = FOLDER / f"{name}.csv"
    with replacing(path) as partial:
        table.write_csv(partial)
    text = params_file.read()
    shown = list(params_file.content(text)["report"]["sweeps"])
    if name not in shown:
        params_file.write(params_file.edited(text, {"report.sweeps": [*shown, name]}))
    differences(Path.cwd(), write=True)
    print(f"{path}: {len(table)} experiments; commit it; dvc repro report shows it on the page")


def table_name(text: str) -> str:
    """What a sweep's table may be called.

    Raises:
        InputError: it is no name, or that of another tool's table.
    """
    try:
        name = TypeAdapter(Name).validate_python(text)
    except ValidationError as error:
        raise InputError(f"--name: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    if name != PROJECTOR and name in MADE_BY:
        raise InputError(f"--name: found {name}, wanted another: that table is of {MADE_BY[name]}")
    return name


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
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys of section projector, the values YAML; each is tried by itself, beside params.yaml's own",
    )
    parser.add_argument("--name", default=PROJECTOR, help="of the table, data/sweep/<name>.csv; default: projector")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at once")
    options = parser.parse_args(arguments)
    name, params = table_name(options.name), read_params()
    own, seeds = params["projector"]["layers"], options.seeds or params["projector"]["seeds"][:1]
    layers = options.layers or [*([layer] for layer in params["gradients"]["layers"]), *([own] if len(own) > 1 else [])]
    wanted = grid(params, layers, options.architectures, seeds, options.set)
    if subprocess.run(["git", "ls-files", "--error-unmatch", "dvc.lock"], capture_output=True, check=False).returncode:
        raise InputError("dvc.lock: not in git: experiments start from a commit; run dvc repro and commit dvc.lock")
    print(f"{len(wanted)} experiments, {queue(wanted, seeds)} of them to be queued", flush=True)
    dvc("exp", "run", "--run-all", "--jobs", str(options.jobs), shown=True)
    publish(name, table_of(list(wanted.values()), measured(wanted), params, seeds))


if __name__ == "__main__":
    run(main)
