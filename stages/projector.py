"""Trains the projector: gradients in, slots of the frozen model filled so that it reports what the teacher labelled.

Reads data/model/ and, of all domains, data/prompts, data/gradients and data/labels. Writes data/projector/:
projector.json (how to use it), the weights of each seed, curve.csv, and the same of a bias-only control. Params:
projector, domains. Every GPU that is found is used, each for whole seeds (the control counts as one; further GPUs stay
idle); the pocket model takes half a minute a seed on two cores. Never reads the target or answer column to learn from:
it learns from labels alone, with `learns_from: reports` from what the model itself reports at the target's tokens, or
with `learns_from: words` from vectors made of the model's own words; then from no label.

  python -m stages.projector
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copytree, ignore_patterns

import polars as pl

from .core.data.gathering import TAUGHT, Gathered, gather
from .core.data.tables import write_parquet
from .core.model import ranks
from .core.model.decoder import Decoder
from .core.model.opening import open_model
from .core.reader.card import BIAS, Card, bias_card
from .core.reader.lessons import curriculum
from .core.reader.reader import Reader, save_reader
from .core.reader.reports import set_gate
from .core.reader.section import Projector
from .core.reader.training import card_for, lessons_of, train
from .core.run.errors import InputError
from .core.run.files import replacing, write_json
from .core.run.params import Domains, Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run

BIAS_STEPS = 60
"""A constant needs few steps."""
CURVE = "curve.parquet"
"""A seed's curve, in the scratch folder."""


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    projector: Projector


@dataclass(frozen=True)
class Job:
    """One projector to be trained. `folder`: where it goes below data/projector."""

    folder: str
    card: Card
    seed: int
    settings: Projector

    @property
    def name(self) -> str:
        """Its piece in the scratch folder."""
        return f"trained_{self.folder}_{self.seed}"


def learn(job: Job, decoder: Decoder, data: Gathered, state: Path, path: Path) -> None:
    """Trains one projector; writes its weights and curve into the folder `path`."""
    reader = Reader(decoder, job.card, job.seed)
    settings = job.settings
    curve = teach(reader, data, settings, state / job.folder)
    if job.folder != BIAS and settings.reports == "names":  # else there is no gate to set: no names to hold it by
        plain = settings.model_copy(update={"flips": 0.0})
        drawn = curriculum(data, "validation", reader, plain).draw("gate", 0, settings.validation_batch, 0)
        set_gate(reader, drawn.gradients, settings.gate)
    path.mkdir()
    save_reader(reader, path)
    write_parquet(path / CURVE, curve)


def teach(reader: Reader, data: Gathered, settings: Projector, folder: Path) -> pl.DataFrame:
    """Trains a reader's projector and returns its curve; `folder` keeps the state of a training that is killed."""
    teaching, size = curriculum(data, "train", reader, settings), settings.validation_batch
    held = curriculum(data, "validation", reader, settings).draw("validation", 0, size, size)
    reader.fit_whitening(teaching.blocks())
    with progress(f"projector, seed {reader.seed}", settings.steps) as advance:
        curve = train(reader, teaching, held, settings, folder / f"seed_{reader.seed}.pt", advance)
    return pl.DataFrame(curve).select(pl.lit(reader.seed).alias("seed"), pl.all())


def main() -> None:
    """Trains the projector."""
    parse(__doc__, "projector", by_domain=False)
    params = read_sections(Sections)
    settings = params.projector
    for name in settings.held_out_domains:
        if name not in params.domains:
            raise InputError(f"params.yaml: projector.held_out_domains: {name!r} is not among domains {params.domains}")
    seen = [name for name in params.domains if name not in settings.held_out_domains]
    ranks.shared("stages.projector", params, lambda: work(params, seen))


def work(params: Sections, seen: list[str]) -> None:
    """Trains this rank's projectors on the domains `seen`; the first rank then writes all of them."""
    settings = params.projector
    more = ["prompt"] * bool(settings.differences) + ["label_summary"] * (settings.reports == "teacher")
    data = gather(seen, settings.layers, (*TAUGHT, *more), settings.places)
    decoder, model = open_model()
    data = lessons_of(decoder, model, data, settings)
    card = card_for(decoder, model, data, settings)
    scratch = Scratch("projector")
    jobs = [Job("", card, seed, settings) for seed in card.seeds]
    few = settings.model_copy(update={"steps": min(settings.steps, BIAS_STEPS)})
    jobs.append(Job(BIAS, bias_card(card), card.seeds[0], few))  # the control, which says the same whatever it reads
    for job in ranks.own(jobs):
        scratch.piece(job.name, partial(learn, job, decoder, data, scratch.folder))
    if not ranks.finished():
        return
    folder = Path("data/projector")
    with replacing(folder) as written:
        for job in jobs:
            to = written / job.folder
            copytree(scratch.folder / job.name, to, ignore=ignore_patterns(CURVE), dirs_exist_ok=True)
        write_json(written / "projector.json", card.model_dump(mode="json"))
        curve = pl.concat([pl.read_parquet(scratch.folder / job.name / CURVE) for job in jobs if job.folder != BIAS])
        curve.fill_nan(None).write_csv(written / "curve.csv")
    scratch.clear()
    best = curve.group_by("seed").agg(pl.col("validation_loss").min())["validation_loss"]
    how = f"{settings.architecture} with LoRA on the verbaliser" if settings.lora else settings.architecture
    print(f"{folder}: {how}, seeds {settings.seeds}, {best.mean():.3f} nats a token in validation")


if __name__ == "__main__":
    run(main)
