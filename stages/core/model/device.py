"""Where a model goes, found and never configured: one device where its weights fit, else all cards of this process."""

import os

import torch
from accelerate import infer_auto_device_map
from transformers import PreTrainedModel

from ..run.errors import InputError

SHARES = (0.3, 0.5, 0.7, 0.9)
"""How much of each card's free memory weights may take, the least that will do: the rest is for batches."""
DeviceMap = dict[str, int | str | torch.device]


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
    parameters = list(shell.parameters())
    needed = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    own, free = best_device(), cards()
    if not free or needed <= SHARES[-1] * free[own.index]:
        return own
    for share in SHARES:
        memory: dict[int | str, int | str] = {card: int(share * room) for card, room in free.items()}
        found = infer_auto_device_map(shell, memory, no_split_module_classes=list(shell._no_split_modules or ()))
        if not {"cpu", "disk"} & {*found.values()}:
            return found
    count = sum(parameter.numel() for parameter in parameters)
    room = ", ".join(f"cuda:{card} {size / 1e9:.1f} GB" for card, size in free.items())
    raise InputError(
        f"found {count} parameters of {parameters[0].dtype}, {needed / 1e9:.1f} GB, and free are {room}: wanted "
        f"weights in {SHARES[-1]:.0%} of what is free: end what else runs there, set model.dtype: bfloat16, or take "
        "more or larger cards (torchrun: one process a machine may use all its cards)"
    )
