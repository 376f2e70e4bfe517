"""Section `gradients` of params.yaml: which activation gradients are stored, and how exactly."""

from typing import Annotated

from pydantic import AfterValidator, Field

from ..data.places import checked
from ..run.params import Section


class Gradients(Section):
    """`layers`: 0-based block indices; the hook point is the residual stream after the block.

    `places`: positions of a row at which they are taken, by name (stages/core/data/places.py); target_1 is among them.

    `keep_bits`: mantissa bits that are stored, of float32's 23.
    """

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    places: Annotated[list[str], AfterValidator(checked)]
    keep_bits: Annotated[int, Field(ge=1, le=23)]
