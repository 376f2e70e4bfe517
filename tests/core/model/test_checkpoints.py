"""Training state: kept whole, restored to the bit, read without running code."""

import pickle
from pathlib import Path

import pytest
import torch

from stages.core.model.checkpoints import Resumable


def training(folder: Path) -> tuple[torch.nn.Module, Resumable]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    matrices, others = [module[0].weight, module[2].weight], [module[0].bias, module[2].bias]  # type: ignore[list-item]
    optimizers = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.01)]  # type: ignore[arg-type]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=21)  # momenta change too
        for optimizer in optimizers
    ]
    return module, Resumable(folder, module, optimizers, schedules)


def steps(module: torch.nn.Module, state: Resumable, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        (module(x) - x[:, :2] ** 2).square().mean().backward()
        state.advance()


def test_a_killed_run_ends_in_the_same_weights(tmp_path: Path):
    whole, state = training(tmp_path / "a")
    steps(whole, state, 0, 20)
    killed, state = training(tmp_path / "b")
    steps(killed, state, 0, 9)
    state.keep_best()
    state.save(9, [{"step": 9, "loss": 1.5}])
    steps(killed, state, 9, 13)  # lost
    resumed, state = training(tmp_path / "b")
    assert (
        state.load() == [{"step": 9, "loss": 1.5}] and state.step == 9 and set(state.best) == set(resumed.state_dict())
    )
    steps(resumed, state, 9, 20)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module, state = training(tmp_path / "a")
    steps(module, state, 0, 3)
    state.save(3, [])
    before = (tmp_path / "a").read_bytes()
    steps(module, state, 3, 5)

    def half(path: Path, _content: object) -> None:
        with path.open("wb") as stream:
            stream.write(before[:100])
        raise ZeroDivisionError

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(ZeroDivisionError):
        state.save(5, [])
    assert (tmp_path / "a").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_state_that_would_run_code_is_refused(tmp_path: Path):
    _, state = training(tmp_path / "a")
    torch.save({"step": print}, tmp_path / "a")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        state.load()


def test_without_a_state_a_run_begins_at_the_beginning(tmp_path: Path):
    _, state = training(tmp_path / "a")
    assert state.load() == [] and state.step == 0 and state.best == {}


def test_the_best_weights_are_a_copy(tmp_path: Path):
    module, state = training(tmp_path / "a")
    state.keep_best()
    kept = {name: value.clone() for name, value in state.best.items()}
    steps(module, state, 0, 2)
    assert all(torch.equal(kept[name], state.best[name]) for name in kept)
    assert any(not torch.equal(kept[name], value) for name, value in module.state_dict().items())


def test_gradients_are_clipped_and_cleared(tmp_path: Path):
    module, state = training(tmp_path / "a")
    seen = []
    state.optimizers[0].register_step_pre_hook(
        lambda *_: seen.append(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm())
    )
    (1e6 * module(torch.ones(1, 6)).sum()).backward()
    state.advance()
    assert seen[0] == pytest.approx(1.0, rel=1e-4) and all(p.grad is None for p in module.parameters())
