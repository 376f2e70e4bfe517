from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stages.core.engine.batches import give_back
from stages.core.engine.gradients import activation_gradients
from stages.core.model import packed
from tests.core.engine import reference
from tests.core.engine.accuracy import gradients
from tests.core.engine.families import VOCABULARY, tiny

STATUS = Path("/proc/self/status")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packed layers are used whatever the processor."""
    if not packed.available():
        pytest.skip("this build of torch has no packed linear layers")
    monkeypatch.setitem(packed._decided, "faster", True)
    yield


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("layer", [nn.Linear(48, 80), nn.Linear(48, 80, bias=False), Conv1D(80, 48)], ids=str)
def test_a_packed_layer_gives_the_layers_output_and_gradient(layer: nn.Module) -> None:
    model = nn.Sequential(layer).requires_grad_(False)
    stream = torch.randn(5, 7, 48, generator=torch.Generator().manual_seed(0))
    # A Conv1D takes contiguous streams only.
    stream = (stream if isinstance(layer, Conv1D) else stream.transpose(0, 1)).requires_grad_()
    wanted = model(stream)
    (slope,) = torch.autograd.grad(wanted.square().sum(), stream)
    with packed.packed_linears(model):
        assert "forward" in layer.__dict__
        found = model(stream)
        (packed_slope,) = torch.autograd.grad(found.square().sum(), stream)
    assert "forward" not in layer.__dict__
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed_slope, slope, rtol=1e-5, atol=1e-4)


def test_numbers_of_rows_are_few_and_at_most_a_sixteenth_too_large() -> None:
    found = [packed.on_grid(rows) for rows in range(1, 8193)]
    assert all(rows <= filled <= rows * (1 + 1 / packed.GRID) for rows, filled in enumerate(found, 1))
    assert [packed.on_grid(filled) for filled in found] == found
    assert found[:31] == list(range(1, 32)) and len(set(found)) < 200


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("dtype", packed.TYPES)
def test_rows_that_fill_up_change_nothing_in_the_others(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((80, 48), (80,)))
    for rows in (1, 31, 33, 333, 1025):
        stream = torch.randn((rows, 48), generator=generator).to(dtype)
        found = packed._linear(stream, packed._packed(weight), bias)
        torch.testing.assert_close(found, packed._pointwise(stream, packed._packed(weight), bias))


@pytest.mark.usefixtures("used")
@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not say how much memory a process holds")
def test_batches_of_many_sizes_hold_no_more_memory_than_batches_of_few() -> None:
    def held() -> float:
        give_back()
        return int(STATUS.read_text().split("VmRSS:")[1].split()[0]) / 1024

    model, stream = nn.Sequential(nn.Linear(64, 64)).requires_grad_(False), torch.zeros(2600, 64)
    with packed.packed_linears(model):
        model(stream)
        before = held()
        for rows in range(1500, 2500, 8):
            model(stream[:rows])
    # Half a megabyte for each of 125 numbers of rows, were they not filled up to 13.
    assert held() - before < 20


@pytest.mark.usefixtures("used")
def test_a_weight_that_changes_in_place_is_packed_anew() -> None:
    model, stream = nn.Sequential(nn.Linear(16, 16)).requires_grad_(False), torch.ones(2, 16)
    with packed.packed_linears(model):
        model(stream)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with packed.packed_linears(model):
        found = model(stream)
    torch.testing.assert_close(found, model(stream))


@pytest.mark.usefixtures("used")
def test_a_trainable_layer_and_one_that_is_patched_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    model[0].requires_grad_(True)
    model[1].__dict__["forward"] = lambda stream: stream
    with packed.packed_linears(model):
        assert "forward" not in model[0].__dict__
        assert torch.equal(model[1](torch.ones(4)), torch.ones(4))
    assert "forward" in model[1].__dict__


def test_gradients_are_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, samples = tiny("qwen3"), reference.draw(12, VOCABULARY)
    found = []
    for choice in (True, False):
        monkeypatch.setitem(packed._decided, "faster", choice and packed.available())
        found.append(gradients(decoder, samples, [0, 2]))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5 * np.abs(found[1]).max())


def test_without_the_operators_the_models_own_layers_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(packed, "_packed", missing)
    monkeypatch.setattr(packed, "_decided", {})
    assert not packed.faster()
    list(activation_gradients(tiny("qwen3"), reference.draw(3, VOCABULARY), [1]))


@pytest.mark.parametrize(("vendor", "wanted"), [("GenuineIntel", False), ("AuthenticAMD", True)])
def test_the_choice_hangs_on_the_processor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, wanted: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"vendor_id : {vendor}\n")
    monkeypatch.setattr(packed, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(packed, "_decided", {})
    assert packed.faster() == (wanted and packed.available())


def test_a_model_that_leaves_no_room_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packed._decided, "faster", True)
    layers = [nn.Linear(8, 8)]
    assert packed.pays(layers)
    monkeypatch.setattr(packed, "MEMORY_SHARE", 0.0)
    assert not packed.pays(layers)
