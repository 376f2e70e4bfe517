"""Edits of params.yaml that keep its comments and its layout: what is not changed stays byte for byte."""

import difflib
from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from ..core.run.errors import InputError
from ..core.run.files import replacing
from ..core.run.params import PARAMS, value_at


class _Representer(RoundTripRepresenter):
    """Writes null as null, not as nothing."""


_Representer.add_representer(type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null"))


def round_trip() -> YAML:
    """The reader and writer of params.yaml and dvc.yaml that keeps what it does not change."""
    found = YAML()
    found.Representer = _Representer
    found.width = 4096
    found.preserve_quotes = True
    found.indent(mapping=2, sequence=4, offset=2)
    return found


def read() -> str:
    """The text of params.yaml.

    Raises:
        InputError: there is none here.
    """
    if not PARAMS.is_file():
        raise InputError(f"{PARAMS}: no such file: run this in the repository's root")
    return PARAMS.read_text(encoding="utf-8")


def content(text: str) -> Any:
    """What the text says, comments and layout with it.

    Raises:
        InputError: it's not YAML.
    """
    try:
        return round_trip().load(text)
    except YAMLError as error:
        raise InputError(f"{PARAMS}: not readable as YAML: {error}") from error


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """The text with keys set: `edited(text, {"gradients.layers": [24]})`. Lists keep their layout.

    Raises:
        InputError: a key isn't there.
    """
    params = content(text)
    for key, value in changes.items():
        *parents, last = key.split(".")
        old = value_at(params, key)
        if isinstance(old, CommentedSeq) and isinstance(value, list):
            old[:] = value
        else:
            section = value_at(params, ".".join(parents)) if parents else params
            section[last] = value
    stream = StringIO()
    round_trip().dump(params, stream)
    return stream.getvalue()


def difference(before: str, after: str) -> str:
    """A unified diff of two texts of params.yaml; empty if they are equal."""
    sides = before.splitlines(), after.splitlines()
    return "\n".join(difflib.unified_diff(*sides, f"a/{PARAMS}", f"b/{PARAMS}", n=1, lineterm=""))


def write(text: str) -> None:
    """Writes params.yaml, whole or not at all."""
    with replacing(PARAMS) as partial:
        partial.write_text(text, encoding="utf-8")
