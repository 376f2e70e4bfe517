"""Makes the model under study: trains the pocket model, or checks a local folder or a Hub model at a pinned commit."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from huggingface_hub import model_info
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig

from ..data.facts import World, read_domain
from ..data.held_out import HeldOut, hold_out
from ..data.questions import Question, questions_path, read_questions
from ..run.errors import InputError
from ..run.files import content_hash, write_json
from . import pocket
from .corpus import ASKED
from .decoder import Decoder
from .names import Lessons
from .opening import DTYPES, ModelCard, card_of
from .section import POCKET, Model


def read_lessons(domains: Sequence[str], questions: Sequence[str], out: HeldOut) -> Lessons:
    """What the files of these names teach a pocket model, less what is held out.

    Raises:
        InputError: a file is missing or breaks its schema, no answer is the subject of another relation, or a question
            that the training asks is missing or stands in two files.
    """
    facts = [read_domain(name) for name in domains]
    World.of(facts).bridged()
    asked: dict[str, Question] = {}
    for name in questions:
        found = read_questions(name)
        if twice := asked.keys() & found.keys():
            raise InputError(
                f"{questions_path(name)}: {min(twice)}: this name stands in another file of params.yaml: questions "
                "too; rename one of the two questions"
            )
        asked |= found
    for name in ASKED:
        if name not in asked or asked[name].expects != name:
            raise InputError(
                f"params.yaml: questions: found no question {name!r} that expects {name!r} in "
                f"{', '.join(str(questions_path(each)) for each in questions)}, wanted one: the pocket model is "
                "taught to answer it"
            )
    return Lessons(facts, asked, hold_out(facts, out))


def train_pocket(
    lessons: Lessons, settings: Model, name: str, state: Path, folder: Path, advance: Callable[[int], None]
) -> ModelCard:
    """Trains a pocket model and saves it, its card and its curve in `folder`; `state`: where a killed run goes on."""
    model, tokenizer, curve = pocket.train(lessons, settings.pocket, state, advance)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pl.DataFrame(curve).write_csv(folder / "curve.csv")
    commit = content_hash(folder / "model.safetensors")[:40]
    card = card_of(Decoder.load(folder, dtype=DTYPES[settings.dtype]), "pocket", name, commit)
    write_json(folder / "model.json", card.model_dump())
    return card


def check_model(settings: Model, folder: Path, key: str = "model", width: int | None = None) -> ModelCard:
    """Pins a Hub model to its commit and downloads it, or checks a local folder; saves just its card in `folder`.

    `key`: the section of params.yaml that names it. `width`: what its width has to be; None: any.

    Raises:
        InputError: there is no such model, a Hub model's revision is not a full commit, it cannot be reached, or it has
            another width.
    """
    source = settings.source
    local = Path(source).is_dir()
    if not local and (Path(source).is_absolute() or source.startswith(".")):
        raise InputError(f"params.yaml: {key}.source: no folder {source}; wanted 'pocket', a Hub id or a local folder")
    revision = None if local else pinned(source, settings.revision, key)
    try:
        decoder = Decoder.load(source, revision=revision, dtype=DTYPES[settings.dtype])
    except InputError as error:
        raise InputError(f"params.yaml: {key}.source: {str(error).removeprefix('model: ')}") from error
    commit = revision or content_hash(Path(source))[:40]
    card = card_of(decoder, "folder" if local else "hub", source, commit)
    if width not in (None, card.d_model):
        raise InputError(
            f"params.yaml: {key}.source: found {source}, {card.d_model} wide, wanted a model that is {width} wide, as "
            "the one under study is, whose slots it is given"
        )
    write_json(folder / "model.json", card.model_dump())
    return card


def width_of(settings: Model) -> int:
    """The width of the model under study, read off its configuration."""
    if settings.source == POCKET:
        return settings.pocket.d_model
    config = AutoConfig.from_pretrained(settings.source, revision=settings.revision)
    return config.get_text_config(decoder=True).hidden_size


def pinned(source: str, revision: str | None, key: str) -> str:
    """The full commit of a Hub model's revision; `key`: the section of params.yaml that names the model.

    Raises:
        InputError: the revision is not a full commit; says which commit it stands for now, so that it can be pinned.
    """
    if revision is not None and len(revision) == 40:
        return revision
    try:
        now = model_info(source, revision=revision).sha
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"params.yaml: {key}.source: {source!r} is no local folder, and the Hub gave no model of that name "
            f"({type(error).__name__}); wanted 'pocket', a Hub id or a local folder"
        ) from error
    raise InputError(f"params.yaml: {key}.revision: found {revision!r}, wanted a full commit; {source} is at {now} now")
