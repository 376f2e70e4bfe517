"""Questions about a felt update: files of data/questions, one a set."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from ..run.errors import InputError
from ..run.files import read_validated
from .facts import Words

QUESTIONS = Path("data/questions")
FELT, OPPOSITE = "<felt>", "<opposite>"
Expects = Literal["report", "toward", "away", "field", "kind", "choice", "name", "notice"]
ASKED = {"kind": ("{kind}",), "choice": ("{one}", "{other}")}
"""What a form has to hold, by what it expects."""


class Question(BaseModel):
    """One question in several forms. `expects`: what answers it; the last form is in no row of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    expects: Expects
    forms: Annotated[tuple[Words, ...], Field(min_length=2)]

    @field_validator("forms")
    @classmethod
    def _have_a_place(cls, forms: tuple[str, ...], info) -> tuple[str, ...]:
        for form in forms:
            check_place(form)
            for name in ASKED.get(info.data.get("expects", ""), ()):
                if form.count(name) != 1:
                    raise InputError(f"form {form!r} must hold {name} exactly once")
        return forms


SET = TypeAdapter(dict[str, Question])
"""The content of a file: questions by name."""


def check_place(question: str) -> str:
    """The question, after a check that it has a place for the felt update.

    Raises:
        InputError: `<felt>` does not stand in it exactly once, or `<opposite>` more than once or before it.
    """
    if question.count(FELT) != 1 or question.count(OPPOSITE) > 1 or OPPOSITE in question.split(FELT)[0]:
        raise InputError(
            f"question {question!r}: wanted {FELT} exactly once, where the felt update goes (and {OPPOSITE}, where its "
            f"negative goes, at most once and behind it): for example 'The currency of {FELT} is'"
        )
    return question


def questions_path(name: str) -> Path:
    """The path of a set of questions."""
    return QUESTIONS / f"{name}.yaml"


def read_questions(name: str) -> dict[str, Question]:
    """The questions of `data/questions/<name>.yaml` by name, checked.

    Raises:
        InputError: the file is missing, is not YAML, or breaks the schema; names file, key, what was found and wanted.
    """
    path = questions_path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in QUESTIONS.glob("*.yaml"))) or "none"
        raise InputError(f"questions: unknown set {name!r}: no file {path} (known: {known})")
    return read_validated(path, SET.validate_python)
