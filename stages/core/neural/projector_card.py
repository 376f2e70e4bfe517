"""The card beside a projector's weights: what it was made for, what it was made from and how it is to be used."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.core.errors import explain
from stages.core.files import read_json
from stages.core.neural.decoder import Decoder
from stages.core.neural.injection import embedding_norm
from stages.core.params import Injection, Lora

REPLACE = Injection(how="replace", block=None, at="slots", scale=1.0)


class Card(BaseModel):
    """How a projector is to be used: what it was made for and what it was made from. Saved beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    architecture: str
    width: int
    whiten: bool
    layers: tuple[int, ...]
    d_model: int
    reference: tuple[float, ...]  # median |g| of the training gradients, a layer
    slot_token: str
    sharpness: float  # how strongly a slot's vector is drawn to the nearest token embeddings
    norm: float  # mean norm of the model's input embeddings
    injection: Injection
    lora_on_the_verbaliser: Lora | None
    model: str
    commit: str
    held_out_domains: tuple[str, ...]
    seeds: tuple[int, ...]  # one projector each


def read_projector_card(folder: Path) -> Card:
    """Reads how a projector is to be used.

    Raises:
        ValueError: `projector.json` is missing or broken.
    """
    path = folder / "projector.json"
    try:
        return Card.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(explain(str(path), error)) from error


def new_card(
    decoder: Decoder,
    *,
    injection: Injection = REPLACE,
    whiten: bool = False,
    lora_on_the_verbaliser: Lora | None = None,
    **settings: object,
) -> Card:
    """A card for a projector of this model, with the norm that its embeddings have."""
    how = {"injection": injection, "whiten": whiten, "lora_on_the_verbaliser": lora_on_the_verbaliser}
    return Card.model_validate({**settings, **how, "d_model": decoder.d_model, "norm": embedding_norm(decoder)})
