"""Training that gives the same weights every time, and whose state survives a kill."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch
from torch import nn

from ..run.files import replacing

Curve = list[dict[str, int | float]]
"""Points of a training curve: the step, and losses in nats."""


@contextmanager
def reproducibly() -> Iterator[None]:
    """Within the block (or a function decorated with it), operations that have a deterministic form use it.

    On two threads, the backward pass of picking rows of a tensor otherwise adds them up in the order in which the
    threads come. Operations without such a form (on GPUs) warn.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block (or a function decorated with it), torch computes on one thread.

    However many cores there are, sums are then added up in the same order.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Resumable:
    """A training run's state, kept in one file that appears whole or not at all.

    The state: the module's weights and the best ones so far, optimizers, schedules, the step and the curve. It is read
    with `weights_only`, which runs no code.
    """

    def __init__(
        self,
        path: Path,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        self.path, self.module, self.optimizers, self.schedules = path, module, optimizers, schedules
        self.parts = (module, *optimizers, *schedules)
        self.step = 0
        self.best: dict[str, torch.Tensor] = {}

    def keep_best(self) -> None:
        """Remembers the present weights as the best so far."""
        self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def advance(self) -> None:
        """One step of all optimizers and schedules, with the gradients clipped to norm 1; then clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for schedule in self.schedules:
            schedule.step()

    def save(self, step: int, curve: Curve) -> None:
        """Replaces the kept state by the present one."""
        parts = [part.state_dict() for part in self.parts]
        content = BytesIO()  # torch's own writing to a file says nothing of a full disk
        torch.save({"step": step, "curve": curve, "best": self.best, "parts": parts}, content)
        with replacing(self.path) as partial:
            partial.write_bytes(content.getbuffer())

    def load(self) -> Curve:
        """Restores the kept state, if there is one, and returns its curve (empty if there is none)."""
        if not self.path.is_file():
            return []
        kept = torch.load(self.path, map_location="cpu", weights_only=True)
        self.step, self.best = kept["step"], kept["best"]
        for part, state in zip(self.parts, kept["parts"], strict=True):
            part.load_state_dict(state)
        return kept["curve"]
