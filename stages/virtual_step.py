"""Takes virtual steps: injects each update direction at several sizes and records the shift of the next token.

Reads data/model/, data/prompts/<domain>.parquet and data/gradients/<domain>.zarr. Writes
data/virtual_step/<domain>.parquet. Params: virtual_step. Every GPU that is found is used, each for whole pieces; the
pocket model takes seconds a domain on a CPU. Resumes piece by piece. On a cluster whose machines share the working
directory: torchrun --nnodes, as with stages.gradients.

  python -m stages.virtual_step geography
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from .core.data.gradient_store import open_store, shards
from .core.data.places import FIRST
from .core.data.tables import PROMPTS, VIRTUAL_STEP, read_table, write_parquet, write_table
from .core.engine.samples import naming_prompts, samples_of
from .core.model import ranks
from .core.model.decoder import Decoder
from .core.model.opening import open_model
from .core.run.errors import InputError
from .core.run.params import Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run
from .core.steps.section import VirtualStep
from .core.steps.virtual_step import virtual_steps


class Sections(Section):
    """What this stage reads of params.yaml."""

    virtual_step: VirtualStep


def shift_table(
    decoder: Decoder,
    prompts: pl.DataFrame,
    gradients: Float[np.ndarray, "sample 1 d_model"],
    settings: VirtualStep,
    advance: Callable[[int], None],
) -> pl.DataFrame:
    """The virtual_step table: one row for each prompt and step size, in the order of the prompts."""
    batches = virtual_steps(
        decoder,
        samples_of(decoder, prompts),
        gradients,
        [settings.layer],
        settings.step_sizes,
        top_tokens=settings.top_tokens,
        continuation_tokens=settings.continuation_tokens,
        advance=advance,
    )
    word = cache(lambda token: decoder.text([token]))
    found = {
        (row, s): {
            "prompt_id": prompts["prompt_id"][row],
            "layer": settings.layer,
            "step_size": size,
            "up_tokens": [word(token) for token in batch.up_ids[b, 0, s].tolist()],
            "up_shifts": batch.up_shifts[b, 0, s].tolist(),
            "down_tokens": [word(token) for token in batch.down_ids[b, 0, s].tolist()],
            "down_shifts": batch.down_shifts[b, 0, s].tolist(),
            "target_logprob_before": float(batch.target_before[b]),
            "target_logprob_after": float(batch.target_after[b, 0, s]),
            "answer_logprob_before": float(batch.answer_before[b]),
            "answer_logprob_after": float(batch.answer_after[b, 0, s]),
            "target_rank": int(batch.target_rank[b, 0, s]),
            "kl": float(batch.kl[b, 0, s]),
            "continuation_before": decoder.text(batch.continuation_before[b], special=False),
            "continuation_after": decoder.text(batch.continuation_after[b][0][s], special=False),
        }
        for batch in batches
        for b, row in enumerate(batch.rows.tolist())
        for s, size in enumerate(settings.step_sizes)
    }
    table = pl.DataFrame([found[key] for key in sorted(found)], schema=VIRTUAL_STEP)
    return table.with_columns(pl.col("answer_logprob_before", "answer_logprob_after").fill_nan(None))


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

    scratch = Scratch("virtual_step", name)
    parts = list(shards(len(prompts), 1, decoder.d_model))
    with progress(f"virtual steps {name}", len(prompts)) as advance:

        def compute(part: slice, path: Path) -> None:
            gradient = store.read("gradient", part, [FIRST])[:, 0, at : at + 1]
            write_parquet(path, shift_table(decoder, prompts[part], gradient, settings, advance))

        for part in ranks.own(parts):
            with naming_prompts(prompts[part], str(table)):
                scratch.piece(f"{part.start}.parquet", partial(compute, part))
    if not ranks.finished():
        return
    files = [scratch.folder / f"{part.start}.parquet" for part in parts]
    path = Path("data/virtual_step") / f"{name}.parquet"
    write_table(path, pl.concat([pl.read_parquet(file) for file in files]), VIRTUAL_STEP)
    scratch.clear()
    print(f"{path}: {len(prompts)} corrections at step sizes {settings.step_sizes}, layer {settings.layer}")


if __name__ == "__main__":
    run(main)
