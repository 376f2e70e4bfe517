"""The pipeline's model and projector, opened for tools that put gradients into slots, and checks of their texts."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging as progress

from ..core.data.places import SUBJECT
from ..core.evaluate.section import Evaluation
from ..core.model.opening import FOLDER, ModelCard, open_model
from ..core.reader.card import plain_card
from ..core.reader.reader import Reader, load_reader
from ..core.reader.section import Projector
from ..core.reader.training import new_card
from ..core.run.errors import InputError
from ..core.run.params import Domains, Section, read_sections
from ..core.steps.section import VirtualStep

PROJECTOR = Path("data/projector")


class Sections(Section):
    """What is read of params.yaml."""

    domains: Domains
    virtual_step: VirtualStep
    projector: Projector
    evaluation: Evaluation


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from logging less than errors and from showing progress bars."""
    log = logging.getLogger("transformers")
    level, shown = log.level, progress.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    progress.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            progress.enable_progress_bar()


def open_reader() -> tuple[Reader, ModelCard, Sections]:
    """The model that the pipeline has made here, as a reader with the trained projector, its card, and the settings.

    Where there is none nothing is trained: slots hold the update direction, and no norms are known to compare with.

    Raises:
        InputError: no model is there, model and projector don't fit together, the projector reads at a subject, or
            params are wrong.
    """
    settings = read_sections(Sections)
    if not (path := FOLDER / "model.json").is_file():
        raise InputError(f"no model has been trained here ({path} is missing): run make repro")
    decoder, model = open_model()
    if (PROJECTOR / "projector.json").is_file():
        reader = load_reader(decoder, PROJECTOR, model.id, model.commit)
        check_places(reader, PROJECTOR)
        return reader, model, settings
    card = plain_card(new_card(decoder, settings.projector, model.id, model.commit), "raw", held_out_domains=())
    return Reader(decoder, card, card.seeds[0]), model, settings


def check_places(reader: Reader, folder: Path) -> None:
    """Checks that a projector, which lies in `folder`, reads at tokens that any text has.

    Raises:
        InputError: it reads at the subject's.
    """
    if SUBJECT in reader.card.places:
        raise InputError(
            f"{folder}: places: found {SUBJECT}, wanted target_1, ...: a text that no template has made marks "
            "no subject; set projector.places in params.yaml and run dvc repro projector"
        )


def check_letters(reader: Reader, text: str, name: str) -> None:
    """Checks that the tokenizer has tokens for a text.

    Raises:
        InputError: it has none for some words; names these.
    """
    tokenizer, read = reader.decoder.tokenizer, reader.decoder.continuation
    assert tokenizer is not None
    unknown = tokenizer.unk_token_id
    if lost := [word for word in text.split() if unknown is not None and unknown in read(word)]:
        raise InputError(
            f"{name}: {', '.join(map(repr, lost))}: the tokenizer of {reader.card.model!r} has no token for this; "
            "wanted words in letters that it knows"
        )
