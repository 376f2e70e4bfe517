"""The card beside a projector's weights: what it was made for, what it was made from and how it is to be used."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..run.errors import InputError
from ..run.files import read_validated
from ..run.params import Count, Rate, Section


class Injection(Section):
    """How the slots' vectors go into the model when it reads; what each value does: `read_slots` in reports.py.

    `how`: replace the slots' embeddings, or add to the residual stream after `block` (0-based; null for replace). `at`:
    the slots, the prompt's last token, or every token of it (replace: slots only). `scale`: the norm of what is
    written, a multiple of the mean embedding's (replace) or of the residual stream's at the position (add).
    """

    how: Literal["replace", "add"]
    block: Annotated[int, Field(ge=0)] | None
    at: Literal["slots", "last", "every"]
    scale: Rate

    @model_validator(mode="after")
    def _fits(self) -> "Injection":
        """Refuses combinations that mean nothing."""
        if self.how == "replace" and (self.block is not None or self.at != "slots"):
            raise InputError(
                f"how: found replace with block {self.block} and at {self.at}, wanted block null and at slots: only "
                "the slots' embeddings can be replaced"
            )
        if self.how == "add" and self.block is None:
            raise InputError("block: found null, wanted the 0-based block after which add adds")
        return self


class Lora(Section):
    """LoRA on the verbaliser, trained together with the projector, at a learning rate of its own.

    What is added to a weight is `alpha` / `rank` times a matrix of that rank.
    """

    rank: Count
    alpha: Count
    learning_rate: Rate


class Card(BaseModel):
    """How a projector is to be used: what it was made for and what it was made from. Saved beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    architecture: str
    width: int
    whiten: bool
    layers: tuple[int, ...]
    places: tuple[str, ...]  # of the gradients that it reads
    slots: int  # that each place fills
    d_model: int
    reference: tuple[float, ...]  # median |g| of the training gradients at the first place, a layer
    slot_token: str
    question: str  # what a report answers, with <felt> where the slots go
    chat: bool  # whether prompts are turns of the model's chat template
    norm: float  # mean norm of the model's input embeddings
    injection: Injection
    lora_on_the_verbaliser: Lora | None
    model: str
    commit: str
    held_out_domains: tuple[str, ...]
    seeds: tuple[int, ...]  # one projector each


BIAS = "bias_only"
"""The architecture, and the folder beside the projector's own files, of the control that says the same of all."""


def bias_card(card: Card) -> Card:
    """The card of the control that goes with a projector: it is given the same, and looks at none of it."""
    return card.model_copy(update={"architecture": BIAS, "whiten": False, "seeds": card.seeds[:1]})


def plain_card(card: Card, architecture: str, **own: Any) -> Card:
    """The card of a reader with nothing to train by steps: one slot a place, no whitening, no LoRA; asked as `card` is.

    `own`: what else differs, by field.
    """
    plain = {"architecture": architecture, "slots": 1, "whiten": False, "lora_on_the_verbaliser": None}
    return card.model_copy(update=plain | own)


def read_projector_card(folder: Path) -> Card:
    """Reads how a projector is to be used.

    Raises:
        InputError: `projector.json` is missing or broken.
    """
    return read_validated(folder / "projector.json", Card.model_validate)
