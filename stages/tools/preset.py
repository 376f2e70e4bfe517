"""Presets: the params that put a Hub model under study, one file a model in presets/, applied to params.yaml.

A new preset is a new file there. Layers, steps and batches are starting points by rule (two thirds of the depth), not
results; slot tokens are tokens that the model's tokenizer has as one piece and that no text of ours contains.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from ruamel.yaml import YAML

from ..core.engine.section import Gradients
from ..core.evaluate.section import Evaluation
from ..core.model.section import Foreign, Model, Peer
from ..core.reader.section import Projector
from ..core.run.errors import InputError, explain
from ..core.run.files import read_validated, read_yaml
from ..core.run.params import Name, Names, Section
from ..core.steps.section import VirtualStep
from . import params_file
from .dependencies import differences

FOLDER = Path(__file__).with_name("presets")
DECISIVE = Path(__file__).with_name("decisive.yaml")
"""What the decisive experiment sets on any of them."""
BYTES = {"float32": 4, "bfloat16": 2}
"""Of a weight."""


class Sections(Section):
    """What a preset may change."""

    model: Model
    peers: dict[Name, Peer | Foreign]
    questions: Names
    gradients: Gradients
    virtual_step: VirtualStep
    projector: Projector
    evaluation: Evaluation


class Preset(Section):
    """One file of presets/.

    `parameters`: billions. `gated`: its licence is to be accepted. `tied`: its head is its embedding matrix. `foreign`:
    what reads beside it in the decisive experiment, a model as wide and of another family. `params`: by dotted key.
    """

    about: str
    gated: bool
    blocks: int
    parameters: float
    tied: bool
    foreign: Foreign
    params: dict[str, Any]

    def decisive(self) -> "Preset":
        """The preset with the params of the decisive experiment in place of its own."""
        last = self.blocks - 1
        layers = [self.blocks // 4, self.blocks // 2, self.params["virtual_step.layer"], last]
        own = {"gradients.layers": layers, "projector.layers": [last], "peers": {"foreign": self.foreign.model_dump()}}
        return self.model_copy(update={"params": self.params | own | read_yaml(DECISIVE)})

    @property
    def weights(self) -> tuple[str, str]:
        """What the weights are opened in, and how large they are then."""
        dtype = self.params["model.dtype"]
        return dtype, f"{self.parameters * BYTES[dtype]:.0f} GB"


def names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str) -> Preset:
    """Reads a preset; case and the underscore don't matter.

    Raises:
        InputError: there is no such preset, or its file is wrong.
    """
    sought = name.lower().replace("_", "-")
    if sought not in names():
        raise InputError(f"preset {name!r}: unknown, wanted one of {', '.join(names())}")
    return read_validated(FOLDER / f"{sought}.yaml", Preset.model_validate)


def changed(before: str, preset: Preset) -> str:
    """The text of params.yaml with the preset in it, validated.

    Raises:
        InputError: params.yaml lacks a key, or the result is not valid.
    """
    after = params_file.edited(before, preset.params)
    content = YAML(typ="safe").load(after)
    try:
        Sections.model_validate({key: content[key] for key in Sections.model_fields if key in content})
    except ValidationError as error:
        raise InputError(explain(str(params_file.PARAMS), error)) from error
    return after


def list_presets() -> None:
    """Prints a line a preset."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("preset", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("what")
    for name in names():
        found = read_preset(name)
        embeddings = " Tied embeddings." if found.tied else " Untied embeddings."
        dtype, size = found.weights
        table.add_row(name, f"{size}, {dtype}", found.about + embeddings + (" Gated." if found.gated else ""))
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print("\nShow what one changes: gradaware preset NAME; make the changes: gradaware preset NAME --apply")


def use_preset(name: str, apply: bool, decisive: bool = False) -> None:
    """Prints what a preset (`decisive`: with the decisive experiment) changes in params.yaml; changes it if `apply`.

    Raises:
        InputError: see `read_preset` and `changed`; nothing is written then.
    """
    preset, before = read_preset(name), params_file.read()
    preset = preset.decisive() if decisive else preset
    after = changed(before, preset)
    console = Console(highlight=False, markup=False)
    dtype, size = preset.weights
    console.print(f"{preset.about} Weights in {dtype}: {size}, plus working memory.")
    console.print(Syntax(params_file.difference(before, after), "diff", theme="ansi_dark", background_color="default"))
    if not apply:
        added = " --decisive" if decisive else ""
        console.print(f"\nparams.yaml is as it was. To make these changes: gradaware preset {name}{added} --apply")
        return
    params_file.write(after)
    differences(Path.cwd(), write=True)
    console.print("\nNext:")
    source = preset.params["model.source"]
    steps = [f"accept the licence at https://huggingface.co/{source}, then hf auth login"] if preset.gated else []
    steps += [
        "python -m stages.model: with the Hub in reach it says which full commit to pin",
        "write that commit into params.yaml: model.revision (it makes the run repeatable)",
        *["likewise python -m stages.peers, and peers.foreign.revision"][: len(preset.params["peers"])],
        "make repro, on a machine with a GPU",
    ]
    for number, step in enumerate(steps, 1):
        console.print(f"  {number}. {step}")
    console.print("params.yaml and dvc.yaml: changed; git diff shows it, git checkout params.yaml dvc.yaml undoes it")
