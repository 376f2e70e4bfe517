"""Makes further models. Theirs is other knowledge to read with: pocket models of another seed, or with permuted facts.

Reads data/facts/*.yaml and data/questions/*.yaml. Writes data/peers/<name>/, each as data/model/ is, without its curve.
Params: peers, model, domains, questions, held_out. No GPU: one process and thread a model, some minutes. Beside a model
of yours, another Hub model or local folder of the same width, which is pinned and checked as `model` is, or none:
`peers: {}`. Resumes where it was killed.

  python -m stages.peers
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from shutil import copytree, ignore_patterns

from .core.data.held_out import HeldOut
from .core.model.section import POCKET, Foreign, Model, Peer
from .core.model.sources import check_model, read_lessons, train_pocket, width_of
from .core.run.errors import InputError
from .core.run.files import replacing
from .core.run.params import Domains, Name, Names, Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run

FOLDER = Path("data/peers")
UNREAD = ("curve.csv", "generation_config.json")
"""Files of a trained model that nothing reads of a peer."""
LOOKED = 0.2
"""Seconds between looks at what the processes tell."""
steps: "SimpleQueue[int]"
"""In a process that trains: where it tells of its steps."""


class Sections(Section):
    """What this stage reads of params.yaml."""

    peers: dict[Name, Peer | Foreign]
    model: Model
    domains: Domains
    questions: Names
    held_out: HeldOut


def begin(told: "SimpleQueue[int]") -> None:
    """Takes the queue that `tell` writes to, in a process that trains."""
    global steps
    steps = told


def tell(count: int) -> None:
    """Tells the process that waits of so many steps; ends this one where that is gone."""
    waiting = multiprocessing.parent_process()
    assert waiting is not None
    if not waiting.is_alive():
        os._exit(1)  # nobody is there to be told why
    steps.put(count)


def teach(params: Sections, name: str, peer: Peer) -> None:
    """Trains one peer into its scratch folder; tells of every step."""
    scratch = Scratch("peers")
    pocket = params.model.pocket.model_copy(update=peer.model_dump())
    settings = params.model.model_copy(update={"pocket": pocket})
    lessons = read_lessons(params.domains, params.questions, params.held_out)

    def make(folder: Path) -> None:
        folder.mkdir()
        train_pocket(lessons, settings, name, scratch.folder / f"{name}.pt", folder, tell)

    scratch.piece(name, make)


def all_taught(params: Sections, peers: Mapping[str, Peer], advance: Callable[[int], None]) -> None:
    """Trains these peers at once, a process each; an error of one is raised when the others are done."""
    context = multiprocessing.get_context("spawn")
    told: SimpleQueue[int] = context.SimpleQueue()
    with ProcessPoolExecutor(len(peers), context, begin, (told,)) as pool:
        jobs = [pool.submit(teach, params, name, peer) for name, peer in peers.items()]
        left = set(jobs)
        while left:
            left = wait(left, LOOKED).not_done
            while not told.empty():
                advance(told.get())
    for job in jobs:
        job.result()


def check(name: str, peer: Foreign, settings: Model, folder: Path) -> None:
    """Pins and checks a model that is not trained here; saves its card."""
    folder.mkdir()
    model = settings.model_copy(update={"source": peer.source, "revision": peer.revision})
    check_model(model, folder, f"peers.{name}", width_of(settings))


def main() -> None:
    """Trains all pocket peers at once, and checks the others."""
    parse(__doc__, "peers", by_domain=False)
    params = read_sections(Sections)
    trained = {name: peer for name, peer in params.peers.items() if isinstance(peer, Peer)}
    if trained and params.model.source != POCKET:
        raise InputError(
            f"params.yaml: peers: found {', '.join(trained)}, wanted {{}}, or other models (source, revision, "
            f"slot_token): only the pocket model has peers that are trained here, and model.source is "
            f"{params.model.source!r}"
        )
    scratch = Scratch("peers")
    for name, peer in params.peers.items():
        if isinstance(peer, Foreign):
            scratch.piece(name, partial(check, name, peer, params.model))
    if trained:
        with progress("peers", len(trained) * params.model.pocket.steps) as advance:
            all_taught(params, trained, advance)
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
