"""Looks ahead: injects each update direction at several step sizes and records how the distribution shifts.

Reads data/model/, data/prompts/<domain>.parquet and data/gradients/<domain>.zarr. Writes
data/virtual_step/<domain>.parquet. Params: virtual_step. A GPU is used if there is one; the pocket model takes seconds a
domain. Resumes piece by piece.

  python -m stages.virtual_step geography
"""

from pathlib import Path

import polars as pl

from stages.core.files import Scratch, content_hash
from stages.core.gradient_store import read_store, shards
from stages.core.neural.opening import open_model
from stages.core.neural.samples import naming_prompts
from stages.core.neural.shift_table import shift_table
from stages.core.params import Section, VirtualStep, read_sections
from stages.core.stage import parse, progress, run
from stages.core.tables import PROMPTS, VIRTUAL_STEP, read_table, write_table


class Sections(Section):
    """What this stage reads of params.yaml."""

    virtual_step: VirtualStep


def main() -> None:
    """Takes one domain's virtual steps."""
    name = parse(__doc__, "virtual_step", by_domain=True)
    settings = read_sections(Sections).virtual_step
    table = Path("data/prompts") / f"{name}.parquet"
    store = Path("data/gradients") / f"{name}.zarr"
    prompts = read_table(table, PROMPTS)
    gradients = read_store(store, prompts["prompt_id"].to_list())
    layers = gradients.attributes["layers"]
    if settings.layer not in layers:
        raise ValueError(
            f"params.yaml: virtual_step.layer: found {settings.layer}, wanted one of gradients.layers {layers}"
        )
    at = layers.index(settings.layer)
    decoder, card = open_model()
    scratch = Scratch(
        "virtual_step",
        name,
        card.model_dump_json(),
        settings.model_dump_json(),
        content_hash(table),
        content_hash(store),
    )
    with progress(f"virtual steps {name}", len(prompts)) as advance, naming_prompts(prompts, str(table)):
        files = [
            scratch.piece(
                f"{part.start}.parquet",
                lambda path, part=part: shift_table(
                    decoder, prompts[part], gradients.gradient[part, at : at + 1], settings, advance
                ).write_parquet(path),
            )
            for part in shards(len(prompts), 1, decoder.d_model)
        ]
    path = Path("data/virtual_step") / f"{name}.parquet"
    shifts = pl.concat([pl.read_parquet(file) for file in files])
    write_table(path, shifts, VIRTUAL_STEP)
    scratch.clear()
    print(f"{path}: {len(prompts)} corrections at step sizes {settings.step_sizes}, layer {settings.layer}")


if __name__ == "__main__":
    run(main)
