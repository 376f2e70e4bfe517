"""A teacher's answer parsed into values, or into a fault with a name. To change the parser costs no request."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ..api.chat import Answer, Fault, json_of

NONE = "none"
Words = Annotated[str, StringConstraints(strip_whitespace=True)]
Parsed = TypeVar("Parsed", bound=BaseModel)


class Said(BaseModel):
    """Base of answers that a model is asked for: the declared fields and no others.

    A subclass's docstring is part of its JSON schema and so of every request: another wording is paid for anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class TeacherLabel(Said):
    """A teacher's reading of one shift."""

    summary: Annotated[Words, Field(description="The correction in one short sentence.")]
    moved_from: Annotated[Words, Field(description='What the model moves away from, or "" if it can\'t be told.')]
    moved_to: Annotated[Words, Field(description='What the model moves toward, or "" if it can\'t be told.')]
    domain: Annotated[Words, Field(description="The field of knowledge of moved_to.")]
    confidence: Annotated[float, Field(ge=0, le=1, description="How sure you are, from 0 to 1.")]


def label_schema(fields: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a label whose domain is one of `fields` or "none"."""
    schema = TeacherLabel.model_json_schema()
    schema["properties"]["domain"]["enum"] = [*fields, NONE]
    return schema


def read_label(answer: Answer, fields: Sequence[str]) -> TeacherLabel:
    """The label in a teacher's answer.

    Raises:
        Fault: the answer can't be used; see FAULTS.
    """
    label = read(answer, TeacherLabel)
    if label.domain not in (*fields, NONE):
        raise Fault("wrong_enum", f"domain: found {label.domain!r}, wanted one of {', '.join([*fields, NONE])}")
    if (label.domain == NONE) != (not label.moved_to and not label.moved_from):
        raise Fault("inconsistent", f'domain {label.domain!r}: wanted "none" exactly when both entities are empty')
    return label


def read(answer: Answer, kind: type[Parsed]) -> Parsed:
    """The answer's JSON object as an instance of `kind`.

    Raises:
        Fault: the answer can't be used; see FAULTS.
    """
    try:
        return kind.model_validate(json_of(answer))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        name = "wrong_enum" if problem["type"] == "literal_error" else "wrong_schema"
        found = repr(problem["input"])[:80]
        raise Fault(name, f"{where}: {problem['msg']} (found {found})") from error
