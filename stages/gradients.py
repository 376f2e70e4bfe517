"""Computes a domain's activation gradients and activations, all target tokens teacher-forced.

Reads data/model/ and data/prompts/<domain>.parquet. Writes data/gradients/<domain>.zarr. Params: gradients. Every GPU
that is found is used, each for whole shards; the pocket model takes seconds a domain on a CPU. Resumes shard by shard.

  python -m stages.gradients geography

On a cluster whose machines share the working directory, run on each machine (the output is the same, byte for byte):

  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m stages.gradients geography
"""

from pathlib import Path

import numpy as np
import polars as pl

from .core.data.gradient_store import ARRAYS, SHARDED, shards, write_store
from .core.data.tables import PROMPTS, read_table
from .core.engine.gradients import activation_gradients
from .core.engine.samples import naming_prompts, samples_of
from .core.engine.section import Gradients
from .core.model import ranks
from .core.model.decoder import Decoder
from .core.model.opening import open_model
from .core.run.params import Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run


class Sections(Section):
    """What this stage reads of params.yaml."""

    gradients: Gradients


def compute(decoder: Decoder, prompts: pl.DataFrame, settings: Gradients, path: Path, advance) -> None:
    """Writes one shard's arrays to `path` as .npz, in the order of the prompts."""
    arrays: dict[str, np.ndarray] = {}
    layers, places = settings.layers, settings.places
    samples = samples_of(decoder, prompts, places)
    for batch in activation_gradients(decoder, samples, layers, places, advance=advance):
        for name in ARRAYS:
            values = getattr(batch, name)
            if name in SHARDED:
                values = values.reshape(len(values), len(places), len(layers), -1)
            if name not in arrays:
                arrays[name] = np.empty((len(prompts), *values.shape[1:]), values.dtype)
            arrays[name][batch.rows] = values
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def main() -> None:
    """Computes one domain's gradients, on all devices here."""
    name = parse(__doc__, "gradients", by_domain=True)
    params = read_sections(Sections)
    ranks.shared("stages.gradients", params, lambda: work(name, params.gradients))


def work(name: str, settings: Gradients) -> None:
    """Computes this rank's shards; the first rank then writes the store."""
    table = Path("data/prompts") / f"{name}.parquet"
    prompts = read_table(table, PROMPTS)
    decoder, card = open_model()
    for layer in settings.layers:
        decoder.check_layer(layer, key="params.yaml: gradients.layers")
    scratch = Scratch("gradients", name)
    parts = list(shards(len(prompts), len(settings.places) * len(settings.layers), decoder.d_model))
    with progress(f"gradients {name}", len(prompts)) as advance:
        for part in ranks.own(parts):
            with naming_prompts(prompts[part], str(table)):
                scratch.piece(
                    f"{part.start}.npz",
                    lambda path, part=part: compute(decoder, prompts[part], settings, path, advance),
                )
    if not ranks.finished():
        return
    files = [scratch.folder / f"{part.start}.npz" for part in parts]
    path = Path("data/gradients") / f"{name}.zarr"
    attributes = {
        "model": card.id,
        "commit": card.commit,
        "hook_point": "residual stream after the block, at each place: target_n is the position whose output predicts "
        "the target's n-th token (target_1: the last prompt token), subject the subject's last token in the prompt",
        "places": settings.places,
        "missing": "a place that a row's target is too short for holds zeros",
        "layers": settings.layers,
        "loss": "-log p(target | prompt), teacher-forced over all target tokens, nats",
        "sign": "gradient dL/dh; the update direction is its negative",
        "precision": str(decoder.dtype).removeprefix("torch."),
    }
    pieces = [np.load(file) for file in files]
    write_store(path, pieces, prompts["prompt_id"].to_list(), settings.keep_bits, attributes)
    scratch.clear()
    print(f"{path}: {len(prompts)} gradients of layers {settings.layers} at {', '.join(settings.places)}")


if __name__ == "__main__":
    run(main)
