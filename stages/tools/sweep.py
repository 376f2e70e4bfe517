r"""Trains and scores projectors over layers, architectures and other settings, and makes a table of them: `make sweep`.

Each experiment trains a projector of one architecture on the gradients of some layers and scores its reports, with
section `projector` as params.yaml has it; and once more for each `--set`, with that key set. The layers have to be
among `gradients.layers`. Reads params.yaml and the results of the experiments. Writes stages/sweeps/experiments.yaml,
runs the stages that it declares and that aren't up to date (`dvc repro` of stages/sweeps/dvc.yaml), and writes
data/sweep/<name>.csv: one row an experiment, with intervals. Then names the table under `report.sweeps` in params.yaml,
so that the page shows it. Killed, it goes on with the experiments that are missing. On the pocket model an experiment
takes a minute on two cores.

  python -m stages.tools.sweep --layers 1 2 2+3 --architectures linear mirror_mlp
  python -m stages.tools.sweep --name zoo --layers 2+3 --set whiten=true \
    "lora={rank: 4, alpha: 8, learning_rate: 0.003}" "injection={how: add, block: 1, at: slots, scale: 1.0}"
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..core.evaluate.estimate import from_json
from ..core.page.inputs import read_params
from ..core.page.sweep import MADE_BY, PROJECTOR, Experiment, words_of
from ..core.reader.projectors import ARCHITECTURES
from ..core.reader.section import Projector
from ..core.run.errors import InputError, explain, one_line
from ..core.run.files import read_json, replacing
from ..core.run.params import Name
from ..core.run.seeds import digest
from ..core.run.stage import parser, run
from .dependencies import differences, yaml
from .experiment import FOLDER
from .sweep_table import publish

PIPELINE, EXPERIMENTS = Path("stages/sweeps/dvc.yaml"), Path("stages/sweeps/experiments.yaml")
DEFAULT = ("scalar_affine", "linear", "mlp", "mirror_mlp")
OWN = {"architecture": "--architectures", "layers": "--layers", "seeds": "--seeds"}
"""Keys of section `projector` that have an option of their own."""
Changes = dict[str, Any]
"""Keys of section `projector` with the values that an experiment sets."""


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
) -> dict[str, tuple[Experiment, Changes]]:
    """The experiments by stage name, each with all that it sets. Experiments that set the same have the same name.

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
    variants: list[Changes] = [{}, *(variant(text, params) for text in sets)]
    usual = {key: params["projector"][key] for one in variants for key in one}
    found = {}
    for some in layers:
        group = f"Layers {' and '.join(map(str, some))} together" if len(some) > 1 else f"Layer {some[0]}"
        for architecture in architectures:
            for one in variants:
                own = {"architecture": architecture, "layers": some}
                name = ", ".join([architecture, *(in_words(key, value, usual[key]) for key, value in one.items())])
                changes = {**own, "seeds": seeds, **one}
                key = digest(json.dumps(changes, sort_keys=True))[:8]
                stage = "-".join([architecture, *map(str, some), *one, key])
                found[stage] = Experiment(group, name, {**own, **usual, **one}), changes
    return found


def declare(name: str, wanted: dict[str, Changes]) -> None:
    """Writes the experiments of table `name` to EXPERIMENTS, beside those of other tables."""
    reader = yaml()
    content = reader.load(EXPERIMENTS.read_text(encoding="utf-8"))
    content["tables"][name] = list(wanted)
    texts = {stage: json.dumps(changes, separators=(",", ":")) for stage, changes in wanted.items()}
    needed = {stage for stages in content["tables"].values() for stage in stages}
    content["experiments"] = {
        stage: text for stage, text in {**content["experiments"], **texts}.items() if stage in needed
    }
    with replacing(EXPERIMENTS) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        reader.dump(content, stream)


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
    line = parser(__doc__, "tools.sweep")
    line.add_argument(
        "--layers",
        type=lambda text: [int(layer) for layer in text.split("+")],
        nargs="+",
        help="such as 1 2 2+3; default: each of gradients.layers, and projector.layers if they are several",
    )
    line.add_argument("--architectures", nargs="+", default=list(DEFAULT), help=f"default: {' '.join(DEFAULT)}")
    line.add_argument("--seeds", type=int, nargs="+", help="default: the first of projector.seeds")
    line.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys of section projector, the values YAML; each is tried by itself, beside params.yaml's own",
    )
    line.add_argument("--name", default=PROJECTOR, help="of the table, data/sweep/<name>.csv; default: projector")
    options = line.parse_args(arguments)
    name, params = table_name(options.name), read_params()
    own, seeds = params["projector"]["layers"], options.seeds or params["projector"]["seeds"][:1]
    layers = options.layers or [*([layer] for layer in params["gradients"]["layers"]), *([own] if len(own) > 1 else [])]
    wanted = grid(params, layers, options.architectures, seeds, options.set)
    declare(name, {stage: changes for stage, (_, changes) in wanted.items()})
    differences(Path.cwd(), write=True)
    targets = [f"{PIPELINE}:experiment@{stage}" for stage in wanted]
    if subprocess.run([sys.executable, "-m", "dvc", "repro", *targets], check=False).returncode:
        raise InputError("an experiment failed, for the reason above; the same command goes on where it stopped")
    publish(name, [(one, from_json(read_json(FOLDER / f"{stage}.json"))) for stage, (one, _) in wanted.items()], seeds)


if __name__ == "__main__":
    run(main)
