"""Trains further pocket models: another seed, and one whose facts are permuted. Theirs is other knowledge to read with.

Reads data/facts/*.yaml and data/questions/*.yaml. Writes data/peers/<name>/, each as data/model/ is, without its curve.
Params: peers, model, domains, questions, held_out. No GPU: one process and thread a model, some minutes. A model of
yours has no peers: give them as `peers: {}`. Resumes where it was killed.

  python -m stages.peers
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from shutil import copytree, ignore_patterns

from .core.data.held_out import HeldOut
from .core.model.section import Model, Peer
from .core.model.sources import Lessons, train_pocket
from .core.run.errors import InputError
from .core.run.files import replacing
from .core.run.params import Domains, Name, Names, Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run

FOLDER = Path("data/peers")
UNREAD = ("curve.csv", "generation_config.json")
"""Files of a trained model that nothing reads of a peer."""


class Sections(Section):
    """What this stage reads of params.yaml."""

    peers: dict[Name, Peer]
    model: Model
    domains: Domains
    questions: Names
    held_out: HeldOut


def teach(params: Sections, name: str, steps: "SimpleQueue[int]") -> None:
    """Trains one peer into its scratch folder; tells of every step."""
    scratch = Scratch("peers")
    pocket = params.model.pocket.model_copy(update=params.peers[name].model_dump())
    settings = params.model.model_copy(update={"pocket": pocket})
    lessons = Lessons.read(params.domains, params.questions, params.held_out)

    def make(folder: Path, advance: Callable[[int], None]) -> None:
        folder.mkdir()
        train_pocket(lessons, settings, name, scratch.folder / f"{name}.pt", folder, advance)

    scratch.piece(name, partial(make, advance=steps.put))
    steps.put(-1)


def main() -> None:
    """Trains all peers at once."""
    parse(__doc__, "peers", by_domain=False)
    params = read_sections(Sections)
    if params.peers and params.model.source != "pocket":
        raise InputError(
            f"params.yaml: peers: found {', '.join(params.peers)}, wanted {{}}: only the pocket model has peers that "
            f"are trained here, and model.source is {params.model.source!r}"
        )
    scratch, context = Scratch("peers"), multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(len(params.peers) or 1, context) as pool,
        progress("peers", len(params.peers) * params.model.pocket.steps) as advance,
    ):
        steps = manager.Queue()
        jobs = [pool.submit(teach, params, name, steps) for name in params.peers]  # type: ignore[arg-type]
        left = len(jobs)
        while left and not any(job.done() and job.exception() for job in jobs):
            told = steps.get()
            left -= told < 0
            advance(max(told, 0))
        for job in jobs:
            job.result()
    with replacing(FOLDER) as written:
        written.mkdir()
        if not params.peers:
            (written / "none").touch()  # an empty folder is no output
        for name in params.peers:
            copytree(scratch.folder / name, written / name, ignore=ignore_patterns(*UNREAD))
    scratch.clear()
    print(f"{FOLDER}: {', '.join(params.peers) or 'none'}")


if __name__ == "__main__":
    run(main)
