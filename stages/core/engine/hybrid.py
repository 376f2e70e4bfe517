"""Hybrid precision: prefixes run in bfloat16, everything that a gradient or shift passes through in float32.

The prefix is most of the work and needs no graph. Its rounding is common to both sides of a virtual step, so that the
shift keeps its tokens, where a step taken in bfloat16 throughout is mostly rounding.
"""

import copy
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..model.decoder import Decoder
from ..run.errors import InputError

_twins: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], nn.Module]] = WeakKeyDictionary()


def prefix_body(decoder: Decoder, *, hybrid: bool) -> nn.Module:
    """The body that prefixes run through: the decoder's own, or its bfloat16 twin (made once, kept with the model).

    Buffers (rotary tables) keep their type, as they do in a model that is loaded in bfloat16.

    Raises:
        InputError: the model is not in float32.
    """
    if not hybrid:
        return decoder.body
    parameters = list(decoder.body.parameters())
    if {parameter.dtype for parameter in parameters} != {torch.float32}:
        raise InputError(f"{decoder.name}: found {decoder.dtype} parameters, wanted float32 for hybrid precision")
    versions = tuple(parameter._version for parameter in parameters)
    kept = _twins.get(decoder.body)
    if kept is None or kept[0] != versions:
        # Given as already copied, so that no second float32 copy is ever made.
        narrow: dict[int, object] = {
            id(parameter): nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False)
            for parameter in parameters
        }
        kept = (versions, copy.deepcopy(decoder.body, narrow))
        _twins[decoder.body] = kept
    return kept[1]
