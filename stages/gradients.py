"""Computes a domain's activation gradients and activations, all target tokens teacher-forced.

Reads data/model/ and data/prompts/<domain>.parquet. Writes data/gradients/<domain>.zarr. Params: gradients. A GPU is used
if there is one; the pocket model takes seconds a domain. Resumes shard by shard.

  python -m stages.gradients geography
"""

from pathlib import Path

import numpy as np
import polars as pl

from stages.core.files import Scratch, content_hash, replacing
from stages.core.gradient_store import shards, write_store
from stages.core.neural.decoder import Decoder
from stages.core.neural.engine.gradients import activation_gradients
from stages.core.neural.opening import open_model
from stages.core.neural.samples import naming_prompts, samples_of
from stages.core.params import Gradients, Section, read_sections
from stages.core.stage import parse, progress, run
from stages.core.tables import PROMPTS, read_table

ARRAYS = ("gradient", "activation", "target_logprob", "answer_logprob", "top_token")


class Sections(Section):
    """What this stage reads of params.yaml."""

    gradients: Gradients


def compute(decoder: Decoder, prompts: pl.DataFrame, layers: list[int], path: Path, advance) -> None:
    """Writes one shard's arrays to `path` as .npz, in the order of the prompts."""
    pieces = list(activation_gradients(decoder, samples_of(decoder, prompts), layers, advance=advance))
    order = np.argsort(np.concatenate([piece.rows for piece in pieces]))
    with path.open("wb") as stream:
        np.savez(stream, **{name: np.concatenate([getattr(piece, name) for piece in pieces])[order] for name in ARRAYS})


def main() -> None:
    """Computes one domain's gradients."""
    name = parse(__doc__, "gradients", by_domain=True)
    settings = read_sections(Sections).gradients
    table = Path("data/prompts") / f"{name}.parquet"
    prompts = read_table(table, PROMPTS)
    decoder, card = open_model()
    for layer in settings.layers:
        decoder.check_layer(layer, key="params.yaml: gradients.layers")
    scratch = Scratch("gradients", name, card.model_dump_json(), settings.model_dump_json(), content_hash(table))
    parts = list(shards(len(prompts), len(settings.layers), decoder.d_model))
    with progress(f"gradients {name}", len(prompts)) as advance, naming_prompts(prompts, str(table)):
        files = [
            scratch.piece(
                f"{part.start}.npz",
                lambda path, part=part: compute(decoder, prompts[part], settings.layers, path, advance),
            )
            for part in parts
        ]
    path = Path("data/gradients") / f"{name}.zarr"
    attributes = {
        "model": card.id,
        "commit": card.commit,
        "hook_point": "residual stream after the block, at the last prompt token",
        "layers": settings.layers,
        "loss": "-log p(target | prompt), teacher-forced over all target tokens, nats",
        "sign": "gradient dL/dh; the update direction is its negative",
        "precision": str(decoder.dtype).removeprefix("torch."),
    }
    with replacing(path) as partial:
        write_store(
            partial, [np.load(file) for file in files], prompts["prompt_id"].to_list(), settings.keep_bits, attributes
        )
    scratch.clear()
    print(f"{path}: {len(prompts)} gradients of layers {settings.layers}")


if __name__ == "__main__":
    run(main)
