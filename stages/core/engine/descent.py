"""Gradient descent on a loss that is made anew at each step."""

from collections.abc import Callable

import torch
from torch import Tensor


def descend(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int, enough: float = 0.0) -> None:
    """At most `steps` steps of an optimiser, until the loss (nats) is at most `enough` (0: all steps)."""
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        if enough and value.item() <= enough:  # each look is a wait for the GPU
            break
        value.backward()
        optimizer.step()
