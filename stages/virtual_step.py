"""Takes virtual steps: injects each update direction at several sizes and records the shift of the next token.

Reads data/model/, data/prompts/<domain>.parquet and data/gradients/<domain>.zarr. Writes
data/virtual_step/<domain>.parquet. Params: virtual_step. Every GPU that is found is used, each for whole pieces; the
pocket model takes seconds a domain on a CPU. Resumes piece by piece. On a cluster whose machines share the working
directory: torchrun --nnodes, as with stages.gradients.

  python -m stages.virtual_step geography
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from .core.data.gradient_store import open_store, shards
from .core.data.places import FIRST
from .core.data.tables import PROMPTS, VIRTUAL_STEP, read_table, write_parquet, write_table
from .core.engine.rows import naming_prompts
from .core.model import ranks
from .core.model.opening import open_model
from .core.run.errors import InputError
from .core.run.params import Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run
from .core.steps.section import VirtualStep
from .core.steps.shift_table import shift_table


class Sections(Section):
    """What this stage reads of params.yaml."""

    virtual_step: VirtualStep


def main() -> None:
    """Takes one domain's virtual steps, on all devices here."""
    name = parse(__doc__, "virtual_step", by_domain=True)
    params = read_sections(Sections)
    ranks.shared("stages.virtual_step", params, lambda: work(name, params.virtual_step))


def work(name: str, settings: VirtualStep) -> None:
    """Computes this rank's pieces; the first rank then writes the table."""
    table = Path("data/prompts") / f"{name}.parquet"
    prompts = read_table(table, PROMPTS)
    store = open_store(Path("data/gradients") / f"{name}.zarr", prompts["prompt_id"])
    layers = store.attributes["layers"]
    if settings.layer not in layers:
        raise InputError(
            f"params.yaml: virtual_step.layer: found {settings.layer}, wanted one of gradients.layers {layers}"
        )
    at = layers.index(settings.layer)
    decoder, _ = open_model()

    def compute(part: slice, advance: Callable[[int], None], path: Path) -> None:
        gradient = store.read("gradient", part, [FIRST])[:, 0, at : at + 1]
        write_parquet(path, shift_table(decoder, prompts[part], gradient, settings, advance))

    scratch = Scratch("virtual_step", name)
    parts = list(shards(len(prompts), 1, decoder.d_model))
    with progress(f"virtual steps {name}", len(prompts)) as advance:
        for part in ranks.own(parts):
            with naming_prompts(prompts[part], str(table)):
                scratch.piece(f"{part.start}.parquet", partial(compute, part, advance))
    if not ranks.finished():
        return
    files = [scratch.folder / f"{part.start}.parquet" for part in parts]
    path = Path("data/virtual_step") / f"{name}.parquet"
    shifts = pl.concat([pl.read_parquet(file) for file in files])
    write_table(path, shifts, VIRTUAL_STEP)
    scratch.clear()
    print(f"{path}: {len(prompts)} corrections at step sizes {settings.step_sizes}, layer {settings.layer}")


if __name__ == "__main__":
    run(main)
