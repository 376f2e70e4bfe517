"""Which models can be measured; the others are refused by name, before anything is computed."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..run.errors import InputError

UNQUANTISED = "parameters in float32, bfloat16 or float64"


def quantised_by(config: PreTrainedConfig) -> str | None:
    """How a model is quantised; None: it isn't."""
    for part in (config, config.get_text_config(decoder=True)):
        settings = getattr(part, "quantization_config", None)
        if settings is not None:
            known: dict[str, Any] = settings if isinstance(settings, dict) else settings.to_dict()
            # Older configs of bitsandbytes have no quant_method.
            method = known.get("quant_method", "bitsandbytes" if "load_in_8bit" in known else "unknown method")
            return str(getattr(method, "value", method))
    return None


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Lets a model through whose gradients can be measured.

    Raises:
        InputError: it is quantised, spread over devices, offloaded, an encoder-decoder, in float16, or its attention
            takes no mask; names what.
    """
    name = type(model).__name__
    if method := quantised_by(model.config):
        raise InputError(f"{name}: found a quantised model ({method}), wanted {UNQUANTISED}")
    # What is offloaded is on "meta", unless it is tied to what is not: then only the map says so.
    mapped = {str(where) for where in (getattr(model, "hf_device_map", None) or {}).values()}
    placed = {str(parameter.device) for parameter in model.parameters()}
    moved_by_hand = len(placed) > 1 and len(mapped) < 2
    if placed == {"meta"} or moved_by_hand or (len(mapped) > 1 and {"cpu", "disk"} & mapped):
        found = sorted(mapped) if len(mapped) > 1 else sorted(placed)
        raise InputError(
            f"{name}: found device_map with parts on {', '.join(found)}, wanted all on one device or on GPUs alone"
        )
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise InputError(f"{name}: found tensors cut in parts (tp_plan), wanted whole blocks on devices (device_map)")
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"{name}: found an encoder-decoder, wanted a causal language model")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if not dtypes <= {torch.float32, torch.bfloat16, torch.float64}:
        # float16's smallest number is 6e-8: most entries of a gradient would be lost.
        raise InputError(f"{name}: found parameters of {sorted(map(str, dtypes))}, wanted {UNQUANTISED}")
    attention = getattr(model.config.get_text_config(decoder=True), "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        raise InputError(f"{name}: found attention {attention!r}, wanted 'sdpa' or 'eager' (they take any mask)")
