"""The upper blocks called by hand at one position, with the arguments that the model itself gave them.

A clean pass of the last prompt token is recorded: what each block was given (mask, rotary tables, cache, whatever the
family passes) and what it returned. The blocks are then called again with several versions of that position, "slots",
laid side by side as if they were positions: each sees the prefix's keys and values, which exist once, and itself, but
no other slot.
"""

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from ..model.decoder import Decoder, residual
from ..run.errors import InputError
from .batches import out_of_memory
from .prefix import Prefix, fork, read_on

MASK = "attention_mask"
REPLAY_ERROR = 1e-3
REPLAY_ERROR_BF16 = 0.2
PROBES = 3
"""Last tokens that slots are tried with: of so many the median tells blocks that leak from a row's own rounding."""


@dataclass(frozen=True)
class Replay:
    """A recorded pass of the last prompt token.

    Attributes:
        prefix: what is before that token.
        clean: the cache after the pass, that token's keys and values included.
        calls: each block's arguments by name, without the residual stream.
        streams: the residual stream after each block.
        normed: what the head is given.
    """

    decoder: Decoder
    prefix: Prefix
    clean: DynamicCache
    calls: tuple[dict[str, Any], ...]
    streams: tuple[Float[Tensor, "b 1 d_model"], ...]
    normed: Float[Tensor, "b 1 d_model"]

    def block(
        self, layer: int, slots: Float[Tensor, "b slot d_model"], cache: DynamicCache
    ) -> Float[Tensor, "b slot d_model"]:
        """Runs one block on slots; their keys and values are added to `cache` (a fork of the prefix's)."""
        block, call = self.decoder.blocks[layer], self.calls[layer]
        found = f"{self.decoder.name}: found blocks ({type(block).__name__})"
        if MASK not in call:
            raise InputError(f"{found} that are given no {MASK!r}, wanted one, to keep slots apart")
        # Whatever holds the cache gets the new one.
        named = {name: cache if value is self.clean else value for name, value in call.items()}
        named[MASK] = self._mask(call[MASK], slots)
        try:
            return residual(block(slots, **named))
        except (RuntimeError, TypeError) as error:
            if out_of_memory(error):
                raise
            raise InputError(
                f"{found} that do not take several versions of a position with the mask between them, "
                f"wanted some that do: {error}"
            ) from error

    def check(self, slots: Float[Tensor, "b slot d_model"]) -> None:
        """Refuses a model whose replayed clean pass (in each of the slots, normed) is not the pass that was recorded.

        The median row counts: in a mixture of experts, rounding may send a single row to another expert.

        Raises:
            InputError: names the largest difference, as a share of a row's largest entry.
        """
        clean = self.normed.float()
        differences = (slots.float() - clean).abs().amax(-1) / clean.abs().amax(-1)
        error = differences.median(0).values.max().item()
        if error > (REPLAY_ERROR if slots.dtype != torch.bfloat16 else REPLAY_ERROR_BF16):
            raise InputError(
                f"{self.decoder.name}: found blocks ({type(self.decoder.blocks[-1]).__name__}) that do not replay "
                f"(error {error:.1e} with {slots.shape[1]} versions of a position behind {self.prefix.padding.width} "
                f"tokens), wanted some that keep to the mask and positions they are given"
            )

    def _mask(
        self, recorded: Tensor | None, slots: Float[Tensor, "b slot d_model"]
    ) -> Bool[Tensor, "#b 1 slot key"] | Float[Tensor, "#b 1 slot key"]:
        """The recorded mask's view of the prefix for every slot, and for each slot itself alone."""
        count, length = slots.shape[1], self.prefix.padding.width
        own = torch.eye(count, dtype=torch.bool, device=slots.device)
        additive = self.decoder.config._attn_implementation == "eager"
        if recorded is None:
            seen = own.new_ones((1, 1, 1, length))
        else:
            seen = recorded[..., -1:, :length].to(slots.device)
            if seen.dtype != torch.bool:
                seen, additive = seen == 0, True
        mask = torch.cat([seen.expand(-1, 1, count, -1), own.expand(len(seen), 1, -1, -1)], dim=-1)
        if not additive:
            return mask
        lowest = torch.finfo(slots.dtype).min
        return torch.zeros(mask.shape, dtype=slots.dtype, device=mask.device).masked_fill(~mask, lowest)

    def caches_of(self, swept: DynamicCache, slots: Sequence[Sequence[int]]) -> DynamicCache:
        """A cache with one row for each row and version, from which decoding goes on after the last prompt token.

        Args:
            swept: the cache of a sweep through the upper blocks: prefix, then one entry a slot.
            slots: for each block the slot whose keys and values each version has there; -1 for the clean pass's.

        Returns:
            Keys and values of prefix and last prompt token; row index = row * versions + version.
        """
        length = self.prefix.padding.width
        result = fork(self.clean)
        for block, (layer, chosen) in enumerate(zip(result.layers, slots, strict=True)):
            for name in ("keys", "values"):
                # A cache with an empty prefix has layers only as far as the sweep has filled them.
                found = [getattr(each, name) for each in (layer, *swept.layers[block : block + 1])]
                clean: Tensor = found[0]
                # Entry 0 is the clean pass's, so that -1 becomes 0.
                entries = torch.cat([each[:, :, length:] for each in found if each is not None], dim=2)
                index = torch.tensor(chosen, device=clean.device) + 1
                picked = entries[:, :, index].transpose(1, 2).flatten(0, 1)[:, :, None]
                before = clean[:, :, :length].repeat_interleave(len(chosen), dim=0)
                setattr(layer, name, torch.cat([before, picked], dim=2))
        return result


@torch.no_grad()
def record(decoder: Decoder, ids: Int[Tensor, "b 1"], prefix: Prefix) -> Replay:
    """Runs the last prompt token after its prefix and keeps what `Replay` needs."""
    calls: list[dict[str, Any]] = []
    streams: list[Tensor] = []
    clean = fork(prefix.cache)

    def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        first, *others = inspect.signature(module.forward).parameters
        call = dict(zip([first, *others], arguments, strict=False)) | keywords
        calls.append({name: value for name, value in call.items() if name != first})
        streams.append(residual(output))

    with ExitStack() as hooks:
        for block in decoder.blocks:
            hooks.enter_context(block.register_forward_hook(note, with_kwargs=True))
        normed = read_on(decoder, ids, prefix, clean)
    return Replay(decoder, prefix, clean, tuple(calls), tuple(streams), normed)


_apart: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@torch.no_grad()
def check_slots(decoder: Decoder, batch: Sequence[Sequence[int]], prefix: Prefix, count: int) -> None:
    """Refuses a model whose blocks give a position something else in the last slots than in the first.

    Blocks that hide what is far away by its index, whatever the mask says (GPT-Neo's windows), take every slot for a
    token more, so that the later slots see less of the prefix. That shows only where prefix and slots together are
    longer than the window: so the longest prompt of `batch` is tried with the clean position in every one of `count`
    slots, once a model for as many tokens and slots as were not tried before.

    Raises:
        InputError: see `Replay.check`.
    """
    width = prefix.padding.width
    if not width or width + count <= _apart.get(decoder.model, 0):
        return
    row = int(prefix.padding.lengths.argmax())
    lasts = torch.tensor(batch[row][-PROBES:], device=decoder.device)
    own = prefix.select(torch.full_like(lasts, row))
    replay, cache = record(decoder, lasts[:, None], own), fork(own.cache)
    slots = replay.streams[0].repeat(1, count, 1)
    for layer in range(1, decoder.n_layers):
        slots = replay.block(layer, slots, cache)
    replay.check(decoder.norm(slots))
    _apart[decoder.model] = width + count
