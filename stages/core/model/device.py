"""The device to compute on: found, never configured."""

import os

import torch


def best_device() -> torch.device:
    """A CUDA device if there is one (a rank's own, where several work side by side), else the CPU."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
