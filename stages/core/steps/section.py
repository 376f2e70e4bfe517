"""Section `virtual_step` of params.yaml: virtual steps along each update direction."""

from typing import Annotated

from pydantic import Field

from ..run.params import Count, Rate, Section


class VirtualStep(Section):
    """The virtual steps at block `layer`.

    `step_sizes`: epsilon, as fractions of the residual norm. `top_tokens`: how many tokens up and down are kept.
    `continuation_tokens`: greedy tokens before and after.
    """

    layer: Annotated[int, Field(ge=0)]
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    top_tokens: Count
    continuation_tokens: Count
