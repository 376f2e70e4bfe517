"""Section `grounding` of params.yaml: how it is measured what the words of a report explain of the gradient."""

from typing import Annotated

from pydantic import Field

from ..run.params import Count, Name, Rate, Section


class Grounding(Section):
    """`rows`: training gradients a domain, at most. `step_sizes`: of virtual steps, fractions of the residual norm.

    `real_steps`: corrections on which real steps are taken (0: none; memory: three times the weights), of `real_sizes`
    times the norm of the blocks' weights; prompts are asked after the first.

    `forms`: other sentences for a report, by name, with {to}, {away} and {domain}; what stands behind "from" or "not"
    is read as the name moved away from. The last is held out of what heads on the model's reading learn. `seeds`: of
    these heads; all scores are of the first, and how much the reports explain is told of each.
    """

    rows: Count
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    real_steps: Annotated[int, Field(ge=0)]
    real_sizes: Annotated[list[Rate], Field(min_length=1)]
    forms: Annotated[dict[Name, str], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
