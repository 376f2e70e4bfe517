"""Changes of what a model says next: other weights, an adapter, vectors added inside, a text in front of the prompt.

All are one kind of thing here: a function from a prompt's tokens to logits (`Speaker`), to be held against the model's
own.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..run.errors import InputError, one_line
from .decoder import Decoder, residual, with_residual
from .opening import placement

Speaker = Callable[[Int[Tensor, "row position"]], Float[Tensor, "row position vocabulary"]]
"""Logits of the next token at every position of some rows. Rows are padded on the right, where nothing looks."""
ADAPTER = "adapter_config.json"


def speaker(model: nn.Module) -> Speaker:
    """A causal language model of transformers or PEFT, as it is."""

    @torch.no_grad()
    def speak(ids: Int[Tensor, "row position"]) -> Float[Tensor, "row position vocabulary"]:
        logits = model(input_ids=ids, use_cache=False).logits
        return logits[:, -ids.shape[1] :].float()  # a soft prompt's own positions stand in front

    return speak


def tuned(decoder: Decoder, source: str, copy: Callable[[], Decoder]) -> Speaker:
    """A model that was fine-tuned, or an adapter in PEFT's format (LoRA, a soft prompt, ...) on the model itself.

    Args:
        decoder: the model before; what it is held against has to have the same tokens.
        source: a folder or a Hub id of a whole model; a local folder of an adapter.
        copy: opens the model once more: an adapter is put into its modules.

    Raises:
        InputError: nothing can be read there, the adapter is of another base, or the model has other tokens.
    """
    if (Path(source) / ADAPTER).is_file():
        return speaker(_adapted(copy().model, source))
    other = Decoder.load(source, dtype=decoder.dtype, place=placement)
    vocabularies = [each.tokenizer.get_vocab() if each.tokenizer else {} for each in (decoder, other)]
    if vocabularies[0] != vocabularies[1] or decoder.vocabulary != other.vocabulary:
        raise InputError(
            f"{source}: found a model with other tokens ({other.vocabulary}), wanted those of the model under study "
            f"({decoder.vocabulary}): what the two say next can't be compared"
        )
    return speaker(other.model)


def _adapted(model: nn.Module, folder: str) -> nn.Module:
    from peft import PeftModel  # a second of imports, for adapters alone

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: found no adapter_model.safetensors beside {ADAPTER}, wanted the adapter's weights")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, folder).eval()  # pyright: ignore[reportArgumentType]
        except (ValueError, RuntimeError, KeyError, TypeError, UserWarning, SafetensorError) as error:
            raise InputError(f"{folder}: not an adapter of the model under study: {one_line(error)[:300]}") from error


def steered(decoder: Decoder, vectors: Mapping[int, Float[Tensor, " d_model"]]) -> Speaker:
    """The model with vectors added to the residual stream after some blocks (by number, from 0), at every position."""

    def add(vector: Float[Tensor, " d_model"], _module: nn.Module, _arguments: Any, output: Any) -> Any:
        stream = residual(output)
        return with_residual(output, stream + vector.to(stream))

    def speak(ids: Int[Tensor, "row position"]) -> Float[Tensor, "row position vocabulary"]:
        with ExitStack() as hooks:
            for layer, vector in vectors.items():
                hooks.enter_context(decoder.blocks[layer].register_forward_hook(partial(add, vector)))
            return plain(ids)

    plain = speaker(decoder.model)
    return speak


def read_vectors(decoder: Decoder, path: Path) -> dict[int, Float[Tensor, " d_model"]]:
    """The steering vectors of a safetensors file: a tensor [d_model] a block, named by the block's number (0-based).

    Raises:
        InputError: the file can't be read, a name is no block of the model, or a tensor has another shape.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable, wanted safetensors: {one_line(error)[:300]}") from error
    found = {}
    for name, tensor in tensors.items():
        if not name.isdecimal() or tensor.shape != (decoder.d_model,):
            found_here = f"{name!r} of shape {list(tensor.shape)}"
            raise InputError(f"{path}: found {found_here}, wanted the number of a block and [{decoder.d_model}]")
        found[decoder.check_layer(int(name), key=str(path))] = tensor
    if not found:
        raise InputError(f"{path}: found no tensor, wanted at least one, named by a block's number")
    return found


def preceded(decoder: Decoder, text: str) -> Speaker:
    """The model with a text in front of the prompt, behind the token that starts a text where there is one."""
    assert decoder.tokenizer is not None
    words = decoder.tokenizer.encode(text, add_special_tokens=False)
    if not words:
        raise InputError("context: found no words, wanted some")
    before = torch.tensor(decoder.tokens(text), device=decoder.device)
    start, limit = len(before) - len(words), decoder.context_length

    def speak(ids: Int[Tensor, "row position"]) -> Float[Tensor, "row position vocabulary"]:
        if limit is not None and (length := len(before) - start + ids.shape[1]) > limit:
            raise InputError(f"context: needs {length} tokens with a prompt, wanted at most {limit}: shorten it")
        return plain(torch.cat([before.expand(len(ids), -1), ids[:, start:]], dim=1))[:, -ids.shape[1] :]

    plain = speaker(decoder.model)
    return speak
