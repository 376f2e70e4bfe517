"""Section `evaluation` of params.yaml: how many gradients are asked about, and how intervals are taken."""

from typing import Annotated

from pydantic import Field

from ..run.params import Count, Rate, Section


class Evaluation(Section):
    """`gradients`: test gradients a domain in the grid, and in each control and held-out group; `fine_tuned` of
    them are fine-tuned on for real (0: none; it takes five times the weights' memory).

    `edits`: facts that are changed in the model by fine-tuning, to see its answers change with them, and corrections
    that it is fine-tuned on, to see whether it then says what its report had said (0: none).

    `step_sizes`: of steering, fractions of the residual norm.

    `bootstrap`: resamples (of entities) for the calibration error's interval. `report_tokens`: most tokens of a report.
    """

    gradients: Count
    fine_tuned: Annotated[int, Field(ge=0)]
    edits: Annotated[int, Field(ge=0)]
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    bootstrap: Count
    report_tokens: Count
    seed: int
