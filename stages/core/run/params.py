"""params.yaml, validated: each stage reads only its own sections, and an unknown or missing key is an error.

A section's class states every key, its unit and its bounds; there are no defaults, so params.yaml shows everything.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .errors import InputError
from .files import read_validated

PARAMS = Path("params.yaml")

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Dollars = Annotated[float, Field(ge=0)]
Dtype = Literal["float32", "bfloat16"]


def plain(name: str) -> str:
    """The name, after a check that it can be a file's name.

    Raises:
        InputError: it couldn't be a file's name everywhere: not small letters, digits and "_", a letter in front.
    """
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise InputError(f"found {name!r}, wanted small letters, digits and '_', beginning with a letter")
    return name


Name = Annotated[str, AfterValidator(plain)]


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Names = Annotated[list[Name], Field(min_length=1)]
Domains = Annotated[list[Name], Field(min_length=2)]
Kind = TypeVar("Kind", bound=Section)


def read_sections(kind: type[Kind]) -> Kind:
    """Reads the sections of params.yaml that `kind` has as fields, and nothing else of it.

    Raises:
        InputError: the file, a section or a key is missing, unknown or of the wrong type; names each.
    """

    def validate(content: dict[str, Any]) -> Kind:
        return kind.model_validate({name: content[name] for name in kind.model_fields if name in content})

    return read_validated(PARAMS, validate)


def value_at(content: Any, key: str, file: Path = PARAMS) -> Any:
    """The value of a key, its parts joined by dots, in the content of a file of params.

    Raises:
        InputError: there is no such key.
    """
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            raise InputError(f"{file}: {key}: missing: wanted this key")
        content = content[part]
    return content
