"""Linear layers with weights in oneDNN's own blocked layout, dropped into a model's modules for the length of a pass.

On a CPU a plain linear layer rearranges its weight on every call; a packed one does so once. What that gains depends on
the processor (nothing to 2x), so it is timed once a process and used only where it helps (`pays`). The operators are
private to torch: where they are missing or refuse, the model's own layers are used.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

ROWS = 128
"""Rows a call that the layout is chosen for; any other number works as well."""
TRIAL_SHAPE = (2048, 1024)
TRIAL_ROWS = (16, 64)
REPEATS = 7
GAIN = 1.2
"""A packed layer must be this many times faster: far enough from 1 that noise does not change the choice between runs."""
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
        """Whether the weight is still what was packed (an optimiser's step in place changes its version)."""
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
    with ExitStack() as restored:
        if pays(model):
            for module in model.modules():
                if _fits(module):
                    module.forward = _forward_of(module)
                    restored.callback(module.__dict__.pop, "forward", None)
        yield


def pays(model: nn.Module) -> bool:
    """Whether packed layers are used for a model: on a CPU, where they are faster, and memory has room for the copies."""
    weights = [module.weight for module in model.modules() if _fits(module)]
    if not weights or not all(isinstance(weight, Tensor) for weight in weights):
        return False
    held = sum(weight.numel() * weight.element_size() for weight in weights if isinstance(weight, Tensor))
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 3 * held < MEMORY_SHARE * room and faster()


def faster() -> bool:
    """Whether packed layers are faster on this processor: timed at first use, or as `decide` said."""
    if "faster" not in _decided:
        _decided["faster"] = _gain() >= GAIN
    return _decided["faster"]


def decide(value: bool) -> None:
    """Settles `faster` for this process, so that all ranks of a run compute alike."""
    _decided["faster"] = value


@lru_cache(maxsize=1)
@torch.no_grad()
def _gain() -> float:
    """How many times faster a packed float32 layer is, by the best of several interleaved calls; 0 if there is none."""
    weight = torch.ones(TRIAL_SHAPE)
    try:
        packed = _packed(weight)
        plain_time = packed_time = 0.0
        for rows in TRIAL_ROWS:
            stream = torch.ones(rows, TRIAL_SHAPE[1])
            times = [
                (_seconds(lambda x=stream: nn.functional.linear(x, weight)), _seconds(lambda x=stream: _linear(x, packed, None)))
                for _ in range(REPEATS)
            ]
            plain_time += min(plain for plain, _ in times)
            packed_time += min(fast for _, fast in times)
    except (AttributeError, RuntimeError, NotImplementedError):
        return 0.0
    return plain_time / packed_time


def _seconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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
        matrix = parameter.detach()
        bias = module.bias
        kept = Weight(matrix.t() if isinstance(module, Conv1D) else matrix, bias.detach() if isinstance(bias, Tensor) else None)
        kept.state = (parameter.data_ptr(), parameter._version)
        _weights[module] = kept
    weight = kept

    def forward(stream: Tensor) -> Tensor:
        result = _Apply.apply(stream, weight)
        assert isinstance(result, Tensor)
        return result

    return forward


def _packed(weight: Matrix) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def _linear(stream: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(stream, weight, bias, "none", [], "")
