"""Opening the model under study, wherever it comes from.

`data/model/model.json` says how: a model trained here, a local folder, or a Hub model at a pinned commit. `open_model`
is the one way in, and no code behind it knows the difference.
"""

from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.core.errors import explain
from stages.core.files import content_hash, read_json
from stages.core.neural.decoder import Decoder
from stages.core.neural.device import best_device

FOLDER = Path("data/model")
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


class ModelCard(BaseModel):
    """What the pipeline knows of the model. `commit`: the Hub commit, or a hash of the files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    id: str
    commit: str
    architecture: str
    d_model: int
    n_layers: int
    vocabulary: int
    parameters: int
    versions: dict[str, str]


def card_of(decoder: Decoder, source: str, name: str, commit: str) -> ModelCard:
    """The card of a loaded model."""
    return ModelCard(
        source=source,
        id=name,
        commit=commit,
        architecture=type(decoder.model).__name__,
        d_model=decoder.d_model,
        n_layers=decoder.n_layers,
        vocabulary=decoder.vocabulary,
        parameters=sum(parameter.numel() for parameter in decoder.model.parameters()),
        versions={package: version(package) for package in PACKAGES},
    )


def read_card(folder: Path = FOLDER) -> ModelCard:
    """Reads the model's card.

    Raises:
        ValueError: it's missing or broken.
    """
    path = folder / "model.json"
    try:
        return ModelCard.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(explain(str(path), error)) from error


def open_model(folder: Path = FOLDER, dtype: torch.dtype = torch.float32) -> tuple[Decoder, ModelCard]:
    """Opens the model under study on the best device here.

    Raises:
        ValueError: the card is broken, or a local model's files are no longer those that were checked.
    """
    card = read_card(folder)
    where = {"pocket": folder, "folder": Path(card.id), "hub": card.id}[card.source]
    if card.source == "folder" and content_hash(Path(card.id))[:40] != card.commit:
        raise ValueError(
            f"{card.id}: its files are not those that {folder / 'model.json'} was made from; run dvc repro model"
        )
    return Decoder.load(where, revision=card.commit, dtype=dtype, device=best_device()), card
