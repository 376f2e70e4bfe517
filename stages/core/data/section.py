"""Section `prompts` of params.yaml: corrections, their splits, and the language model that writes more of them."""

from typing import Annotated, Literal

from pydantic import Field

from ..api.section import Asking
from ..run.params import Count, Section, Share


class Generator(Asking):
    """The language model that writes prompts: how many `paraphrases` and plausible `wrong_answers` for each fact."""

    paraphrases: Count
    wrong_answers: Count


class Prompts(Section):
    """How prompts are made and split.

    `generator`: prompts from the facts' templates alone, or also from a language model (section `openai`), or also
    `rows` of one's own data, from data/rows.

    `targets`: counterfactual targets a prompt. `further_targets`: names that answer other relations of the domain, as
    targets of a prompt that trains: what reads gradients is to learn from any name.
    `correction_templates`: templates of a fact that also get the truth as a target. `validation`, `test`: shares of the
    prompts of seen entities.
    """

    generator: Literal["facts", "openai", "rows"]
    openai: Generator
    targets: Count
    further_targets: Annotated[int, Field(ge=0)]
    correction_templates: Annotated[int, Field(ge=0)]
    validation: Share
    test: Share
    seed: int
