"""Packed linear layers: weights in oneDNN's blocked layout, used by a model's modules for the length of a pass.

On a CPU a plain linear layer rearranges its weight on every call; a packed one does so once. What that gains depends on
the processor (nothing to 2x), so it is used only on those where it was measured to help (`pays`). The operators are
private to torch: where they are missing or refuse, the model's own layers are used.

oneDNN compiles kernels for each number of rows that it meets, half a megabyte a shape of weight, keeps them, and frees
but half of them when its cache is full (tests/benchmarks/results). Batches differ in size all the time, so that memory
would grow as long as a run lasts: rows are filled up to a few numbers (`on_grid`).
"""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

ROWS = 128
"""Rows a call that the layout is chosen for; any other number works as well."""
GRID = 16
"""Numbers of rows between a power of two and the next for which kernels are compiled."""
CPUINFO = Path("/proc/cpuinfo")
MEMORY_SHARE = 0.6
TYPES = (torch.float32, torch.bfloat16)
Matrix = Float[Tensor, "out in"]


class Weight:
    """One layer's weight, packed for x W^T and, once it is asked for, for g W."""

    def __init__(self, weight: Matrix, bias: Tensor | None) -> None:
        self.plain, self.bias = weight, bias
        self.state = (weight.data_ptr(), weight._version)
        self.onward = _packed(weight)
        self.back: Tensor | None = None

    def is_of(self, weight: Matrix) -> bool:
        """Whether this is the packed form of `weight` as it is now (a step of an optimiser changes its version)."""
        return self.state == (weight.data_ptr(), weight._version)

    def backward(self) -> Tensor:
        """The transposed weight, packed."""
        if self.back is None:
            self.back = _packed(self.plain.t().contiguous())
        return self.back


class _Apply(torch.autograd.Function):
    """x W^T + b with a gradient for x alone: the weights are frozen."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, weight: Weight) -> Tensor:
        ctx.weight = weight
        return _linear(stream, weight.onward, weight.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _linear(gradients[0], ctx.weight.backward(), None), None


_weights: WeakKeyDictionary[nn.Module, Weight] = WeakKeyDictionary()
_decided: dict[str, bool] = {}


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Within the block, the model's linear layers compute with packed weights, where that pays.

    Packed weights are kept as long as their module lives, and packed anew when the weight has changed. Layers with a
    trainable weight, on another device or of another kind stay as they are.
    """
    fitting = [module for module in model.modules() if _fits(module)]
    with ExitStack() as restored:
        for module in fitting if pays(fitting) else []:
            module.forward = _forward_of(module)
            restored.callback(module.__dict__.pop, "forward", None)
        yield


def pays(layers: Sequence[nn.Module]) -> bool:
    """Whether linear layers are packed: only where packing is faster and memory has room for copies."""
    held = sum(weight.numel() * weight.element_size() for layer in layers for weight in layer.parameters())
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return bool(layers) and 3 * held < MEMORY_SHARE * room and faster()


def faster() -> bool:
    """Whether packed layers are used on this processor, unless `decide` has settled it.

    Where MKL is on its home ground they gain little, elsewhere 1.1 to 2 times (tests/benchmarks/results). The choice
    hangs on the processor alone: a stopwatch would choose differently under load, and with it the last bits of every
    output.
    """
    if "faster" not in _decided:
        described = CPUINFO.read_text() if CPUINFO.is_file() else platform.processor()
        _decided["faster"] = "GenuineIntel" not in described and available()
    return _decided["faster"]


@torch.no_grad()
def available() -> bool:
    """Whether this torch has oneDNN's packed operators."""
    try:
        _linear(torch.ones(1, 16), _packed(torch.ones(16, 16)), None)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


def decide(value: bool) -> None:
    """Settles `faster` for this process, so that all ranks of a run compute alike."""
    _decided["faster"] = value


def _fits(module: nn.Module) -> bool:
    """Whether a module is a plain linear layer with a frozen weight on the CPU, not hooked into by someone else."""
    if type(module) not in (nn.Linear, Conv1D) or "forward" in module.__dict__:
        return False
    weight = module.weight
    return (
        isinstance(weight, Tensor)
        and not weight.requires_grad
        and weight.device.type == "cpu"
        and weight.dtype in TYPES
        and weight.numel() > 0
    )


def _forward_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    kept = _weights.get(module)
    parameter = module.weight
    assert isinstance(parameter, Tensor)
    if kept is None or not kept.is_of(parameter):
        matrix, bias = parameter.detach(), module.bias
        matrix = matrix.t() if isinstance(module, Conv1D) else matrix
        kept = _weights[module] = Weight(matrix, bias.detach() if isinstance(bias, Tensor) else None)
    # No function of its own each time: the tests' type checks would be worked out anew for every layer and pass.
    return partial(_through, kept)


def _through(weight: Weight, stream: Tensor) -> Tensor:
    result = _Apply.apply(stream, weight)
    assert isinstance(result, Tensor)
    return result


def _packed(weight: Matrix) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def on_grid(rows: int) -> int:
    """The least number of rows on the grid that holds that many: at most one row in GRID is filled up."""
    step = 1 << max(0, rows.bit_length() - GRID.bit_length())
    return -(-rows // step) * step


def _linear(stream: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, with rows filled up to the grid; the filling changes no bit of the other rows."""
    rows = stream.numel() // stream.shape[-1]
    missing = on_grid(rows) - rows
    if not missing:
        return _pointwise(stream, weight, bias)
    flat = stream.reshape(rows, -1)
    filled = torch.cat([flat, flat[:missing]])
    return _pointwise(filled, weight, bias)[:rows].unflatten(0, stream.shape[:-1])


def _pointwise(stream: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(stream, weight, bias, "none", [], "")
