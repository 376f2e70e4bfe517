"""Opening the model under study, wherever it comes from, and where it goes.

`data/model/model.json` says how: a model trained here, a local folder, or a Hub model at a pinned commit. `open_model`
is the one way in, and no code behind it knows the difference. Where it goes is found and never configured: one device
where its weights fit, else all cards of this process.
"""

import os
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import infer_auto_device_map
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from ..run.errors import InputError
from ..run.files import content_hash, read_validated
from ..run.params import Dtype
from .decoder import Decoder, DeviceMap

FOLDER = Path("data/model")
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
SHARES = (0.3, 0.5, 0.7, 0.9)
"""How much of each card's free memory weights may take, the least that will do: the rest is for batches."""


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
        parameters=decoder.model.num_parameters(),
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


def best_device() -> torch.device:
    """A CUDA device if there is one (a rank's own, where several work side by side), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks this for the same bits in every run
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def cards() -> dict[int, int]:
    """Free memory in bytes of each card that is this process's: its own where ranks share the machine, else all."""
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1
    indices = range(torch.cuda.device_count()) if alone else [best_device().index]
    return {index: torch.cuda.mem_get_info(index)[0] for index in indices if index is not None}


def fits_one_card(weights: int) -> bool:
    """Whether that many bytes of weights fit each single card of the machine, as far as its size says."""
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return all(weights <= SHARES[-1] * size for size in sizes)


def placement(shell: PreTrainedModel) -> torch.device | DeviceMap:
    """The device of a model, or of each of its parts, before its weights are read; `shell`: the model on device "meta".

    Raises:
        InputError: its weights fit no card, nor all cards of this process together.
    """
    needed = shell.get_memory_footprint(return_buffers=False)
    own, free = best_device(), cards()
    if not free or needed <= SHARES[-1] * free[own.index]:
        return own
    for share in SHARES:
        memory: dict[int | str, int | str] = {card: int(share * room) for card, room in free.items()}
        found = infer_auto_device_map(shell, memory, no_split_module_classes=list(shell._no_split_modules or ()))
        if not {"cpu", "disk"} & {*found.values()}:
            return found
    room = ", ".join(f"cuda:{card} {size / 1e9:.1f} GB" for card, size in free.items())
    raise InputError(
        f"found {shell.num_parameters()} parameters of {shell.dtype}, {needed / 1e9:.1f} GB, and free are {room}: "
        f"wanted weights in {SHARES[-1]:.0%} of what is free: end what else runs there, set model.dtype: bfloat16, or "
        "take more or larger cards (torchrun: one process a machine may use all its cards)"
    )
