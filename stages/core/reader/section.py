"""Section `projector` of params.yaml: the projector and its training."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ..data.questions import check_place
from ..run.errors import InputError
from ..run.params import Count, Name, Rate, Section, Share
from .card import Injection, Lora


class Projector(Section):
    """Training of the projector.

    `learns_from`: a teacher's labels; the model's own reports on the raw gradients at the target's tokens; or words,
    vectors made of the model's own embeddings, and no gradient.
    `reports`: what it learns to write of a labelled row, the grammar's sentence of the label's names, or the teacher's
    summary as it stands. A summary can't be turned into that of another gradient: no flips and no differences then.
    `layers`: the stored layers whose gradients it reads, all at once. `width`: hidden units (mlp) or rank (low_rank).
    `whiten`: update directions are whitened first, by the statistics of the training gradients.
    `lora`: LoRA on the verbaliser; null: the model that reads is the frozen one that was measured.
    `places`: those of gradients.places that it reads. `slots`: how many each of them fills; a learned map may write a
    name of several tokens from one place, a slot a token. `question`: what a report answers; <felt> is where
    the slots go, <opposite> where their negatives go. `chat`: a prompt is a user's turn where the model has chat turns,
    and else plain text; what the model is to complete ("The currency of <felt> is") wants plain text.
    `batch` rows a step bear the slot loss (weight `slot_loss`; 0: the words of reports teach alone), the first
    `report_batch` of them the report loss. `flips`, `shams`: shares of training rows that are sign-flipped, or no
    gradient at all. `differences`: the share from which the gradient of another correction of the same prompt is taken
    away: what is left goes toward the one target and away from the other.
    `gate`: the share of a vector that its report's names have to account for, as a fraction of the validation
    gradients' median.
    """

    architecture: str
    learns_from: Literal["labels", "reports", "words"]
    reports: Literal["names", "teacher"]
    injection: Injection
    width: Count
    whiten: bool
    lora: Lora | None
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    places: Annotated[list[str], Field(min_length=1)]
    slots: Count
    question: Annotated[str, AfterValidator(check_place)]
    chat: bool
    held_out_domains: list[Name]
    slot_token: str
    steps: Count
    batch: Count
    report_batch: Count
    slot_loss: Annotated[float, Field(ge=0)]
    flips: Share
    shams: Share
    differences: Share
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    validate_every: Count
    validation_batch: Count
    patience: Count
    gate: Share
    seeds: Annotated[list[int], Field(min_length=1)]

    @model_validator(mode="after")
    def _worded(self) -> "Projector":
        """Refuses what would need another summary than a row's own."""
        if self.reports == "teacher" and (self.flips or self.differences or self.learns_from != "labels"):
            raise InputError(
                f"reports: found teacher with flips {self.flips:g}, differences {self.differences:g} and learns_from "
                f"{self.learns_from}, wanted 0, 0 and labels: a gradient that is changed has no summary of its own"
            )
        return self
