"""Training that gives the same weights every time, and whose state survives a kill.

The state: weights, optimizer moments, the step and the curve, without pickle.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
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


class Resumable:
    """Keeps a training run's state in one folder that appears whole or not at all."""

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        self.folder, self.module, self.optimizers, self.schedules = folder, module, optimizers, schedules
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
        moments = {
            f"{which}.{index}.{name}": value.contiguous()
            for which, optimizer in enumerate(self.optimizers)
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        with replacing(self.folder) as partial:
            partial.mkdir()
            weights = {name: value.contiguous() for name, value in self.module.named_parameters()}
            save_file(weights, partial / "weights.safetensors")
            save_file(moments, partial / "moments.safetensors")
            save_file(self.best, partial / "best.safetensors")
            progress = {
                "step": step,
                "curve": curve,
                "schedules": [schedule.state_dict() for schedule in self.schedules],
                "groups": [
                    [{name: value for name, value in group.items() if name != "params"} for group in each.param_groups]
                    for each in self.optimizers
                ],
            }
            (partial / "progress.json").write_text(json.dumps(progress))

    def load(self) -> Curve:
        """Restores the kept state, if there is one, and returns its curve (empty if there is none)."""
        if not self.folder.is_dir():
            return []
        self.module.load_state_dict(load_file(self.folder / "weights.safetensors"), strict=False)
        self.best = load_file(self.folder / "best.safetensors")
        moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in self.optimizers]
        for key, value in load_file(self.folder / "moments.safetensors").items():
            which, index, name = key.split(".", 2)
            moments[int(which)].setdefault(int(index), {})[name] = value
        progress = json.loads((self.folder / "progress.json").read_text())
        self.step = progress["step"]
        for schedule, kept in zip(self.schedules, progress["schedules"], strict=True):
            schedule.load_state_dict(kept)
        for optimizer, state, groups in zip(self.optimizers, moments, progress["groups"], strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            # A schedule moves rates and momenta; JSON has no tuples.
            for group, kept in zip(optimizer.param_groups, groups, strict=True):
                group.update({name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})
        return progress["curve"]
