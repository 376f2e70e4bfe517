"""Batches of rows of like length within a budget of tokens, which is halved when memory runs out.

There are two sizes of batch: prefixes run in passes of the token budget, and the few tokens that follow them are
carried on together for some passes' worth of rows (GROUP), since a pass over few tokens costs as much as reading the
weights.
"""

import ctypes
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..model.decoder import Decoder

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
# Indices into the samples; batches differ in size, so that the axis has no name.
Rows = Int[np.ndarray, " _"]

OVERHEAD_FLOP = 6e9
CPU_TOKENS = (512, 4096)
GROUP = 4
GPU_SHARE = 0.3
BATCHES_HELD = 4
"""Batches between which freed memory is given back: to take it anew for each costs a tenth of the time."""


def token_budget(decoder: Decoder) -> int:
    """The number of tokens in a batch, from the model's shape and the device's memory; the same on every run.

    On a CPU a batch is as large as makes a block's arithmetic outweigh what Python and the kernels' launches cost,
    and no larger, since activations that leave the caches cost more than larger batches gain. On a GPU it is as large
    as a share of the memory holds: per token, the keys and values of all blocks and the activations that one block
    has in flight; the engine halves it when that turns out too much.
    """
    if decoder.device.type == "cuda":
        total = torch.cuda.get_device_properties(decoder.device).total_memory
        own = (each for each in decoder.model.parameters() if each.device == decoder.device)
        held = sum(parameter.numel() * parameter.element_size() for parameter in own)
        width = max(getattr(decoder.config, "intermediate_size", 0) or 0, 4 * decoder.d_model)
        token = (2 * decoder.n_layers * decoder.d_model + 4 * width + 8 * decoder.d_model) * decoder.dtype.itemsize
        return max(1024, int(GPU_SHARE * (total - held) / token))
    least, most = CPU_TOKENS
    return int(min(most, max(least, OVERHEAD_FLOP / (24 * decoder.d_model**2))))


def plan(
    lengths: Sequence[tuple[int, int]], *, tokens: int, rows: int, join: Literal["equal", "near", "any"] = "near"
) -> list[Rows]:
    """Cuts rows into batches by their number of tokens.

    Args:
        lengths: (prompt tokens, tokens that follow it) a row.
        tokens: most tokens in a batch, padding included; a single row may exceed it.
        join: which prompts share a batch: those of equal length, of lengths nearby where they are few, or any.

    Returns:
        Indices into `lengths`; every row in exactly one batch, longest first (memory runs out at once or never).
    """
    batches: list[list[int]] = []
    width = 0
    for row in sorted(range(len(lengths)), key=lambda row: (*lengths[row], row), reverse=True):
        prompt, follow = lengths[row]
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]][0] if batch else prompt
        widened = max(width, longest + follow)
        full = len(batch) >= rows or (len(batch) + 1) * widened > tokens
        # Half full is closed where the length changes: what is padded is computed for nothing. A smaller one is
        # filled on from lengths nearby.
        far = len(batch) * width > tokens / 2 or longest - prompt > longest / 8
        differs = longest != prompt and (join == "equal" or (join == "near" and far))
        if batch and not full and not differs:
            batch.append(row)
            width = widened
        else:
            batches.append([row])
            width = prompt + follow
    return [np.array(batch, dtype=np.int64) for batch in batches]


def in_batches(
    batches: Sequence[Rows],
    compute: Callable[[Rows], Result],
    advance: Callable[[int], None] | None,
) -> Iterator[Result]:
    """Yields `compute` of each batch; a batch that does not fit into memory is cut in two, as are later large ones.

    Raises:
        RuntimeError: a single row does not fit into memory.
    """
    waiting = list(reversed(batches))
    most = max(map(len, batches), default=0)
    done = 0
    while waiting:
        batch = waiting.pop()
        if len(batch) > most:
            middle = (len(batch) + 1) // 2
            waiting += [batch[middle:], batch[:middle]]
            continue
        try:
            result = compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
            result = None
        if result is None:
            # Outside the except clause, where the traceback no longer keeps the failed batch's tensors alive.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            most = len(batch) // 2
            logger.warning("out of memory with %d rows in a batch: going on with at most %d", len(batch), most)
            waiting.append(batch)
            continue
        yield result
        result = None
        done += 1
        if done % BATCHES_HELD == 0:
            give_back()
        if advance is not None:
            advance(len(batch))


def give_back() -> None:
    """Returns freed memory to the system, where the C library can (glibc).

    Batches of many sizes leave holes in its heap, so that a long run would hold more and more unused memory.
    """
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU (where torch raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "row position"]:
    """Token ids as one tensor, padded on the right with the row's last token (no position that counts ever sees it)."""
    width = max(len(row) for row in rows)
    ids = [[*row, *list(row[-1:]) * (width - len(row))] for row in rows]
    return torch.tensor(ids, dtype=torch.long, device=device)
