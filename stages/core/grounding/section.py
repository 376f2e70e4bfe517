"""Section `grounding` of params.yaml: how it is measured what the words of a report explain of the gradient."""

from typing import Annotated

from pydantic import Field

from ..run.params import Count, Name, Rate, Section


class Grounding(Section):
    """`rows`: training gradients a domain, at most. `step_sizes`: of virtual steps, fractions of the residual norm.

    `forms`: other sentences for a report, by name, with {to}, {away} and {domain}; what stands behind "from" or "not"
    is read as the name moved away from.
    """

    rows: Count
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    forms: dict[Name, str]
