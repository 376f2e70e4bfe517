"""Opening the model under study, wherever it comes from.

`data/model/model.json` says how: a model trained here, a local folder, or a Hub model at a pinned commit. `open_model`
is the one way in, and no code behind it knows the difference.
"""

from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from ..run.errors import InputError
from ..run.files import content_hash, read_validated
from ..run.params import Dtype
from .decoder import Decoder
from .device import placement

FOLDER = Path("data/model")
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


class ModelCard(BaseModel):
    """What the pipeline knows of the model. `commit`: the Hub commit, or a hash of the files. `dtype`: see Model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    id: str
    commit: str
    dtype: Dtype
    architecture: str
    d_model: int
    n_layers: int
    vocabulary: int
    parameters: int
    versions: dict[str, str]

    def weights(self) -> int:
        """Bytes that the parameters take."""
        return self.parameters * DTYPES[self.dtype].itemsize


def card_of(decoder: Decoder, source: str, name: str, commit: str) -> ModelCard:
    """The card of a loaded model; it will be opened in the dtype that it's in now.

    Raises:
        InputError: that is neither float32 nor bfloat16.
    """
    names: dict[torch.dtype, Dtype] = {dtype: name for name, dtype in DTYPES.items()}
    if decoder.dtype not in names:
        raise InputError(f"{name}: found parameters of {decoder.dtype}, wanted one of {', '.join(DTYPES)}")
    return ModelCard(
        source=source,
        id=name,
        commit=commit,
        dtype=names[decoder.dtype],
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
        InputError: it's missing or broken.
    """
    return read_validated(folder / "model.json", ModelCard.model_validate)


def open_model(folder: Path = FOLDER) -> tuple[Decoder, ModelCard]:
    """Opens the model under study in its card's dtype, on the best device here.

    Raises:
        InputError: the card is broken, or a local model's files are no longer those that were checked.
    """
    card = read_card(folder)
    where = {"pocket": folder, "folder": Path(card.id), "hub": card.id}[card.source]
    if card.source == "folder" and content_hash(Path(card.id))[:40] != card.commit:
        raise InputError(
            f"{card.id}: its files are not those that {folder / 'model.json'} was made from; run dvc repro model"
        )
    return Decoder.load(where, revision=card.commit, dtype=DTYPES[card.dtype], place=placement), card
