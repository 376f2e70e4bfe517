"""A device that computes on the CPU but refuses what CUDA refuses, so that faults of placement show without a GPU.

`python -m stages.stand_in stages.projector` runs a stage with the stand-in as its best device, in a copy of the
repository that holds this file (see tests/test_devices.py); with `--cpu` in front it runs on the CPU by the same
arithmetic, so that both write the same bytes. It is torch's device for backends of one's own (PrivateUse1, here named
"standin"): a tensor on it is a subclass that holds a CPU tensor, and every operation on it arrives in `_run`, which
raises as CUDA does

- where operands are on different devices (a CPU tensor of no dimension may join a pointwise operation, as on CUDA);
- where one device's tensor is indexed with another's (stricter than CUDA, which takes an index from the CPU);
- where a random number is drawn on the device with a generator of the CPU;
- where numpy is given a tensor that lies on the device.

Not seen by it: what depends on the device's type being "cuda" (the token budget, slices of logits, ranks; all of
torch.cuda), kernels that CUDA lacks or that round otherwise, memory and its end, reads of a copy that has not arrived
(non_blocking), faults inside one kernel (an index out of range raises at once here, later on CUDA), and a backward pass
over several devices, since torch's engine knows one of the kind. Random numbers are the CPU's, and torch's optimisers
go over the parameters one by one and not in groups.
"""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "standin"
CPU = torch.device("cpu")
COPIES = {"aten::copy_", "aten::_to_copy"}
"""What may read one device and write another."""
TAKE_NUMBERS = ("aten::masked_fill", "aten::masked_fill_", "aten::index_put", "aten::index_put_")
"""What takes a number from the CPU besides the pointwise operations."""
FACTORIES = ("arange", "eye", "linspace", "randperm", "tril_indices", "triu_indices")
"""What torch would make as an empty tensor and then resize."""
TAKEN_APART = ("silu_backward", "mish_backward", "native_channel_shuffle")
"""What a CPU does in one kernel and torch does in several, with other rounding, on devices it does not know."""
FLASH = 1
"""torch's number of the attention that it prefers on a CPU."""


class OnDevice(Tensor):
    """A tensor on the stand-in device. `held`: the CPU tensor with its numbers, of the same shape and strides."""

    held: Tensor
    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type["OnDevice"], held: Tensor, device: torch.device) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=device
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, *args, **(kwargs or {}))

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        """Marks a tensor that Module.to swaps in place, so that tied weights stay tied."""
        return ["held"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], device: torch.device, size: Any, stride: Any) -> "OnDevice":
        return OnDevice(inner["held"], device)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What torch.save keeps comes back on the CPU, as with `map_location="cpu"`."""
        return self.detach().cpu().__reduce_ex__(protocol)

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def storage(self) -> Any:
        return self.held.storage()

    def __repr__(self, **kwargs: Any) -> str:
        return f"{self.held!r} on {self.device}"

    def __format__(self, how: str) -> str:
        return format(self.detach().cpu(), how)


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation's result on the CPU tensors that the operands hold, put back on the operands' device."""
    schema = operation._schema
    given = {**dict(zip((argument.name for argument in schema.arguments), args, strict=False)), **kwargs}
    written = [given[a.name] for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    operands = list(_tensors(given.values()))
    device = kwargs.get("device") or next((each.device for each in operands if isinstance(each, OnDevice)), CPU)
    device = torch.device(device)
    if device.type == NAME and device.index is None:
        device = torch.device(NAME, 0)
    if schema.name not in COPIES:
        _check(operation, operands, written, given)
    result = operation(*map(_held, args), **{name: _held(value) for name, value in kwargs.items()})
    if any(returned.alias_info is not None and returned.alias_info.is_write for returned in schema.returns):
        for each in written:
            if isinstance(each, OnDevice) and (each.size(), each.stride()) != (each.held.size(), each.held.stride()):
                raise NotImplementedError(f"{operation} changes a tensor's shape in place: not known to the stand-in")
        return written[0] if len(schema.returns) == 1 else tuple(written)
    return _placed(result, device)


def _check(operation: Any, operands: list[Tensor], written: list[Any], given: dict[str, Any]) -> None:
    """Raises as CUDA does where operands are on different devices, or a generator is of another one."""
    lone = torch.Tag.pointwise in operation.tags or operation._schema.name in TAKE_NUMBERS
    bound = [each for each in operands if each.dim() or each.device != CPU or not lone or _among(each, written)]
    places = sorted({str(each.device) for each in [*bound, *(each for each in operands if each.device != CPU)]})
    if len(places) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {' and '.join(places)}! "
            f"(in {operation})"
        )
    if isinstance(given.get("generator"), torch.Generator):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu' (in {operation})")


def _among(tensor: Tensor, others: list[Any]) -> bool:
    return any(tensor is other for other in others)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _held(value: Any) -> Any:
    """The value with CPU tensors in place of those on the device, and the CPU in place of the device."""
    if isinstance(value, OnDevice):
        return value.held
    if isinstance(value, torch.device):
        return CPU
    return type(value)(map(_held, value)) if type(value) in (list, tuple) else value


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor) and device.type == NAME:
        return OnDevice(value, device)
    return type(value)(_placed(each, device) for each in value) if type(value) in (list, tuple) else value


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    **more: Any,
) -> Tensor:
    """Attention by the kernel that the CPU would take: torch asks that of devices that it knows alone."""
    ops = torch.ops.aten
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
    if ops._fused_sdp_choice(query, key, value, mask, dropout, causal, **more) == FLASH:
        scale = more.get("scale")
        flash = ops._scaled_dot_product_flash_attention_for_cpu
        return flash(query, key, value, dropout, causal, attn_mask=mask, scale=scale)[0]
    return ops._scaled_dot_product_attention_math(query, key, value, mask, dropout, causal, **more)[0]


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return _run(torch.ops.aten.copy_.default, target, source, non_blocking)


def install() -> list[torch.library.Library]:
    """Registers the device with torch, for the rest of this process; the caller keeps what is returned."""
    _setup_privateuseone_for_python_backend(NAME)
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_run, "PrivateUse1")
    aten.impl("copy_", _copy, "PrivateUse1")
    aten.impl("_pin_memory", lambda tensor, device=None: tensor.clone(), "CPU")
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        aten.impl("scaled_dot_product_attention", _attention, key)
    for name in (*FACTORIES, *TAKEN_APART):
        packet = getattr(torch.ops.aten, name)
        for operation in (getattr(packet, overload) for overload in packet.overloads()):
            if not any(argument.is_out for argument in operation._schema.arguments):
                aten.impl(operation.name(), partial(_run, operation), "PrivateUse1")
    return [every, aten]


def use(best: Callable[[], torch.device]) -> None:
    """Has `stages` compute on the device, with what it does on CPUs alone left out: wider groups."""
    from stages.core.model import opening

    opening.best_device = best
    from stages.core.engine import batches

    batches.GROUP = 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    on_cpu = arguments[0] == "--cpu"
    kept = [] if on_cpu else install()
    place = CPU if on_cpu else torch.device(NAME, 0)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(place)  # where transformers' Trainer trains
    use(lambda: place)
    sys.argv = arguments[on_cpu:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
