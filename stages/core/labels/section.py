"""Section `labels` of params.yaml: which teacher labels the shifts, and what it may see."""

from typing import Annotated, Literal

from pydantic import Field

from ..api.section import Asking, Teacher
from ..run.params import Count, Name, Section


class Second(Section):
    """A second teacher labels a `share` of the prompts, drawn by `seed`; null instead of this section: none does."""

    share: Annotated[float, Field(gt=0, le=1)]
    seed: int
    teacher: Teacher


class Labels(Asking):
    """Which teacher labels and what it sees. `backend`: its file in stages/labellers.

    `backend` and `lexicon` are of all backends, the other keys of backend openai.

    `lexicon`: the domains whose entities a teacher knows by name, beside those of the domain at hand. Not `domains`: a
    domain that is added there then leaves the labels of the others alone.
    `teacher_sees`: beside the shift also the prompt, or (an upper bound) the true correction.
    `fields`: the domains that a teacher may name. Wider than `domains`, because the list stands in every request: to
    add a domain of this list pays for that domain only.
    `top_tokens`: tokens up and down that a request shows for each step size.
    `recurring`: share of labels above which one wording of the summary, entities taken out, is reported as suspicious.
    """

    backend: Name
    lexicon: list[Name]
    teacher_sees: Literal["shift", "shift_and_prompt", "truth"]
    fields: Annotated[list[str], Field(min_length=2)]
    top_tokens: Count
    recurring: Annotated[float, Field(gt=0, le=1)]
    second: Second | None
