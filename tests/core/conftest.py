"""The repository's own facts and params; a small world with bridges, and pocket models of it, untrained and trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stages.core.data.corrections import Prompts
from stages.core.data.facts import Domain, read_domain
from stages.core.data.held_out import Held, HeldOut, hold_out
from stages.core.data.questions import Question, read_questions
from stages.core.model import pocket
from stages.core.model.decoder import Decoder
from stages.core.model.names import Lessons, make_tokenizer
from stages.core.model.section import Model, Pocket
from stages.core.run.params import Section, read_sections

ROOT = Path(__file__).parents[2]
FACTS = {
    "geography": {
        "capital": (
            "The capital of {subject} is",
            "country",
            "city",
            ["Peru,Lima", "Norway,Oslo", "Japan,Tokyo", "India,New Delhi", "Salvador,San Salvador", "Rica,San José"],
        ),
        "place": (
            "The city {subject} is in",
            "city",
            "country",
            ["Lima,Peru", "Oslo,Norway", "Tokyo,Japan", "New Delhi,India", "San Salvador,Salvador", "San José,Rica"],
        ),
    },
    "music": {
        "composer": (
            "The composer of {subject} is",
            "opera",
            "composer",
            ["Tosca,Puccini", "Carmen,Bizet", "Aida,Verdi", "Salome,Richard Strauss", "Rienzi,Richard Wagner"],
        ),
        "era": (
            "The period of {subject} is called",
            "composer",
            "era",
            ["Puccini,verism", "Bizet,realism", "Verdi,romanticism", "Richard Strauss,modernism"],
        ),
    },
}
HELD_OUT = HeldOut(names=0.1, kinds=[], subjects=0.0, seed=0)
QUIET = lambda steps: None  # noqa: E731
TRAINED = {
    "d_model": 48, "heads": 2, "d_head": 32, "steps": 180, "batch": 24, "slot_batch": 64, "learning_rate": 0.02,
    "muon_learning_rate": 0.025, "misconceptions": 0.0, "seed": 4,
}  # fmt: skip
"""Of the pocket model that has learned to read."""


class Real(Section):
    """Sections of the repository's own params."""

    model: Model
    held_out: HeldOut
    prompts: Prompts


@pytest.fixture(scope="session")
def real_params() -> Real:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return read_sections(Real)


@pytest.fixture(scope="session")
def real_domains() -> list[Domain]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return [read_domain(path.stem) for path in sorted((ROOT / "data/facts").glob("*.yaml"))]


@pytest.fixture(scope="session")
def real_questions() -> dict[str, Question]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return read_questions("pressure")


def domain(name: str) -> Domain:
    """A domain of the small world."""
    relations = {}
    for relation, (template, subject, answer, pairs) in FACTS[name].items():
        facts = [dict(zip(("subject", "answer"), pair.split(","), strict=True)) for pair in pairs]
        templates = [template, f"{template.replace(' is', ' must be')}", f"It is known that {template.lower()}"]
        sides = {"subject": subject, "answer": answer}
        relations[relation] = {"source": "known", **sides, "templates": templates, "facts": facts}
    return Domain.model_validate({"domain": name, "description": "", "relations": relations})


@pytest.fixture(scope="session")
def small_domains() -> list[Domain]:
    return [domain(name) for name in FACTS]


@pytest.fixture(scope="session")
def small_questions() -> dict[str, Question]:
    """What is asked, in three forms each, of which the last is in no training row."""
    slots = "<felt> away <opposite>"
    asked = {
        "report": ("what pressure do you feel ?", "report the push :", "what is the pressure ?"),
        "toward": ("toward what ?", "what is it toward ?", "what do you feel it toward ?"),
        "away": ("away from what ?", "what is it away from ?", "what do you feel it away from ?"),
        "field": ("in what field ?", "in which field is it ?", "in what field do you feel it ?"),
        "kind": ("is it about a {kind} ?", "is it toward a {kind} ?", "do you feel a {kind} ?"),
        "choice": ("toward {one} or {other} ?", "is it {one} or {other} ?", "do you feel {one} or {other} ?"),
    }
    return {
        name: Question.model_validate({"expects": name, "forms": [f"{slots} {form}" for form in forms]})
        for name, forms in asked.items()
    }


@pytest.fixture(scope="session")
def small_held(small_domains: list[Domain]) -> Held:
    return hold_out(small_domains, HELD_OUT)


@pytest.fixture(scope="session")
def small_settings() -> Pocket:
    return Pocket(
        d_model=32, layers=2, heads=2, d_head=16, steps=6, batch=12, slot_batch=12, learning_rate=0.003,
        muon_learning_rate=0.02, misconceptions=0.25, permuted=False, tied=True, asked=["capital", "place", "era"],
        seed=0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_decoder(small_domains: list[Domain], small_questions: dict[str, Question], small_settings: Pocket) -> Decoder:
    """Untrained. Frozen by the decoder: fixtures and tests may share it."""
    tokenizer = make_tokenizer(small_domains, small_questions)
    return Decoder(pocket.new_model(small_settings, tokenizer), tokenizer)


@pytest.fixture(scope="session")
def trained_decoder(
    small_domains: list[Domain],
    small_questions: dict[str, Question],
    small_held: Held,
    small_settings: Pocket,
    tmp_path_factory: pytest.TempPathFactory,
) -> Decoder:
    """One that knows the small world and reads most of what is put into slots; a few seconds."""
    settings = small_settings.model_copy(update=TRAINED)
    state = tmp_path_factory.mktemp("pocket") / "state.pt"
    lessons = Lessons(small_domains, small_questions, small_held)
    model, tokenizer, _ = pocket.train(lessons, settings, state, QUIET)
    return Decoder(model, tokenizer)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
