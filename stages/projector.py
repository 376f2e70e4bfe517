"""Trains the projector: gradients in, slots of the frozen model filled so that it reports what the teacher labelled.

Reads data/model/ and, of all domains, data/prompts, data/gradients and data/labels. Writes data/projector/:
projector.safetensors, projector.json (how to use it) and curve.csv. Params: projector, domains. A GPU is used if there is
one; the pocket model takes a minute on two cores. Never reads the target or answer column: it learns from labels alone.

  python -m stages.projector
"""

from pathlib import Path

import polars as pl
import torch

from stages.core.files import Scratch, content_hash, replacing
from stages.core.gathering import Gathered, gather, held_out_targets, hosts, usable
from stages.core.neural.decoder import Decoder
from stages.core.neural.opening import ModelCard, open_model
from stages.core.neural.reader import Reader, new_card
from stages.core.neural.training import Curriculum, Lesson, train
from stages.core.params import Domains, Projector, Section, read_sections
from stages.core.stage import parse, progress, run


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    projector: Projector


def curriculum(data: Gathered, split: str, reference: torch.Tensor, settings: Projector) -> Curriculum:
    """The curriculum of a split, made from rows with nothing held out and a usable label."""
    rows = data.rows.filter((pl.col("split") == split) & (pl.col("held_out") == "none") & usable())
    if rows.is_empty():
        raise ValueError(
            f"data/labels: no usable label in split {split!r}; look at the teacher's agreement (dvc metrics show)"
        )
    unseen = held_out_targets(data.rows)
    lessons = [
        Lesson(domain, to, away, flip=away not in unseen)
        for domain, to, away in rows.select("label_domain", "label_moved_to", "label_moved_from").iter_rows()
    ]
    gradients = torch.tensor(data.gradient[rows["row"].to_numpy()])
    return Curriculum(gradients, lessons, hosts(data.rows, split), reference, settings, settings.seed)


def new_reader(decoder: Decoder, model: ModelCard, data: Gathered, settings: Projector) -> Reader:
    """An untrained reader; its reference norm is the median over training gradients, a layer."""
    rows = data.rows.filter(pl.col("split") == "train")["row"].to_numpy()
    reference = torch.tensor(data.gradient[rows]).norm(dim=-1).median(0).values
    card = new_card(
        decoder,
        architecture=settings.architecture,
        width=settings.width,
        layers=tuple(settings.layers),
        reference=tuple(reference.tolist()),
        slot_token=settings.slot_token,
        sharpness=settings.sharpness,
        model=model.id,
        commit=model.commit,
        held_out_domains=tuple(settings.held_out_domains),
        seed=settings.seed,
    )
    return Reader.new(decoder, card)


def main() -> None:
    """Trains the projector."""
    parse(__doc__, "projector", by_domain=False)
    params = read_sections(Sections)
    settings = params.projector
    for name in settings.held_out_domains:
        if name not in params.domains:
            raise ValueError(f"params.yaml: projector.held_out_domains: {name!r} is not among domains {params.domains}")
    seen = [name for name in params.domains if name not in settings.held_out_domains]
    data = gather(seen, settings.layers)
    decoder, model = open_model()
    reader = new_reader(decoder, model, data, settings)
    teaching, validation = (curriculum(data, split, reader.reference, settings) for split in ("train", "validation"))
    inputs = [
        content_hash(Path("data") / f"{kind}/{name}{end}")
        for name in seen
        for kind, end in (("labels", ".parquet"), ("gradients", ".zarr"))
    ]
    scratch = Scratch("projector", params.model_dump_json(), model.model_dump_json(), *inputs)
    with progress("projector", settings.steps) as advance:
        curve = train(reader, teaching, validation, settings, scratch.folder / "state", advance)
    folder = Path("data/projector")
    with replacing(folder) as partial:
        partial.mkdir()
        reader.save(partial)
        pl.DataFrame(curve).write_csv(partial / "curve.csv")
    scratch.clear()
    print(
        f"{folder}: {settings.architecture}, {len(teaching.lessons)} gradients, validation loss {min(point['validation_loss'] for point in curve):.3f} nats a token"
    )


if __name__ == "__main__":
    run(main)
