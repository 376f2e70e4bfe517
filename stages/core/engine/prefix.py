"""Prefixes: all but the last token of each prompt, run once without a graph and kept as keys and values.

Prompts of like length run together, padded on the right, where a causal model never looks. What is kept of them is then
laid flush right, so that prompts of any lengths can go on together: the distance between two tokens is the distance
between their indices (sliding windows stay exact), their positions are given, and what is left of a row is masked.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import DynamicCache

from ..data.places import SUBJECT
from ..model.decoder import Decoder
from .batches import GROUP, Result, Rows, in_batches, padded, plan, token_budget
from .samples import Sample

PROBE_TOKENS = 4
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float64: 1e-4}
# Rotary tables of these kinds depend on the longest prompt in the batch.
LENGTH_DEPENDENT = ("longrope", "dynamic")


@dataclass(frozen=True)
class Padding:
    """Rows of different `lengths`, laid flush right in a cache of `width` tokens."""

    width: int
    lengths: Int[Tensor, " row"]

    def arguments(self, count: int, after: int = 0, context: int | None = None) -> dict[str, Tensor]:
        """Mask and positions for a model that reads `count` more tokens, `after` tokens behind each row's end.

        Nothing where the rows are equally long. Positions stay below `context`.
        """
        if bool((self.lengths == self.width).all()):
            return {}
        device = self.lengths.device
        seen = torch.arange(self.width, device=device) >= self.width - self.lengths[:, None]
        mask = torch.cat([seen, seen.new_ones((len(seen), after + count))], dim=1)
        positions = self.lengths[:, None] + torch.arange(after, after + count, device=device)
        # Only what a finished row is fed for company can lie beyond.
        positions = positions if context is None else positions.clamp(max=context - 1)
        return {"attention_mask": mask.long(), "position_ids": positions}

    def select(self, rows: Shaped[Tensor, " _"]) -> "Padding":
        """The padding of some of the rows."""
        return replace(self, lengths=self.lengths[rows])


@dataclass(frozen=True)
class Prefix:
    """Keys and values of some rows' tokens, [row, head, token, width] a block; no layers where no row has a token."""

    cache: DynamicCache
    padding: Padding

    def select(self, rows: Int[Tensor, " selected"]) -> "Prefix":
        """The prefixes of some of the rows."""
        twin = fork(self.cache)
        select_rows(twin, rows)
        return Prefix(twin, self.padding.select(rows))


def read_on(
    decoder: Decoder, ids: Int[Tensor, "row position"], prefix: Prefix, cache: DynamicCache | None = None
) -> Float[Tensor, "row position d_model"]:
    """The normed residual stream of tokens that follow the prefixes. `cache`: the fork to add to; None: a new one."""
    cache = fork(prefix.cache) if cache is None else cache
    where = prefix.padding.arguments(ids.shape[1], context=decoder.context_length)
    return decoder.body(input_ids=ids, past_key_values=cache, use_cache=True, **where).last_hidden_state


class _Filled(Exception):
    """Ends a pass once the last block's keys and values are there: nothing behind them is needed."""


class _Filling(DynamicCache):
    """Takes each block's keys and values, once and without a copy, and ends the pass when it has the last block's."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.parts: list[Tensor] = []
        """Keys and values in turn, in the decoder's precision."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *others: Any, **named: Any) -> Any:
        """Keeps a block's keys and values."""
        assert 2 * layer_idx == len(self.parts), f"{self.decoder.name}: block {layer_idx} has keys and values twice"
        self.parts += [key_states.to(self.decoder.dtype), value_states.to(self.decoder.dtype)]
        if layer_idx == self.decoder.n_layers - 1:
            raise _Filled
        return key_states, value_states


@torch.no_grad()
def run_prefix(decoder: Decoder, rows: Sequence[Sequence[int]], *, tokens: int | None = None) -> Prefix:
    """Keys and values of every block for each row's tokens, in the decoder's precision.

    Args:
        rows: token ids; rows may be of different lengths where `takes_padding`.
        tokens: most tokens in a pass; None: all rows in one.

    The cache is made without the config: a sliding window's cache would drop what later positions do not see, and then
    an index would no longer be a position. The masks hide it instead.
    """
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    padding = Padding(width, torch.tensor(lengths, dtype=torch.long, device=decoder.device))
    whole: list[Tensor] = []
    filled = [row for row in range(len(rows)) if lengths[row]]
    for index in plan([(lengths[row], 0) for row in filled], tokens=tokens or len(rows) * width, rows=len(rows)):
        batch = sorted((filled[place] for place in index), key=lambda row: (-lengths[row], row))
        ids, filling = padded([rows[row] for row in batch], decoder.device), _Filling(decoder)
        with suppress(_Filled):
            decoder.body(input_ids=ids, past_key_values=filling, use_cache=True)
        if len(batch) == len(rows) and {*lengths} == {width}:
            whole = filling.parts
            break
        if not whole:  # of zeros: masked entries must be finite
            whole = [part.new_zeros(len(rows), part.shape[1], width, part.shape[3]) for part in filling.parts]
        for count, run in groupby(enumerate(batch), key=lambda item: lengths[item[1]]):
            places, own = map(list, zip(*run, strict=True))
            for space, part in zip(whole, filling.parts, strict=True):
                space[own, :, width - count :] = part[places, :, :count]
    return Prefix(DynamicCache(zip(whole[::2], whole[1::2], strict=True)), padding)


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache that starts with the same keys and values and grows on its own (growing makes new tensors: no copy)."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def select_rows(cache: DynamicCache, rows: Shaped[Tensor, " _"]) -> None:
    """Keeps some of a cache's rows, whichever devices its blocks are on."""
    for layer in cache.layers:
        for name in ("keys", "values"):
            part: Tensor = getattr(layer, name)
            setattr(layer, name, part[rows.to(part.device)])


def over_prefixes(
    decoder: Decoder,
    samples: Sequence[Sample],
    compute: Callable[[Sequence[Sample], Rows, Prefix], Result],
    *,
    follow: Callable[[Sample], int],
    versions: int,
    advance: Callable[[int], None] | None,
    tokens: int | None = None,
    places: Sequence[str] = (),
) -> Iterator[Result]:
    """Runs the prompts up to the first place, in batches, and yields what `compute` makes of each batch.

    Args:
        compute: is given a batch's samples, their indices and their prefixes.
        follow: how many tokens follow a sample's prompt.
        versions: most positions of a row, or versions of its last token, that go through the upper blocks.
        advance: told the number of rows after each batch.
        tokens: most tokens in a pass; None: worked out (`token_budget`).
        places: where gradients are taken; a prefix ends before the first of them, and before the last prompt token.
    """
    budget = tokens or token_budget(decoder)
    # What follows a subject is no longer few tokens.
    few = decoder.device.type == "cpu" and SUBJECT not in places
    size = budget * GROUP if few else budget
    starts = [sample.start(places) for sample in samples]
    rows = zip(samples, starts, strict=True)
    lengths = [(start + 1, len(sample.prompt) - 1 - start + follow(sample)) for sample, start in rows]
    join = "any" if takes_padding(decoder) else "equal"
    batches = plan(lengths, tokens=size, rows=max(1, size // versions), join=join)

    def work(rows: Rows) -> Result:
        prefix = run_prefix(decoder, [samples[row].prompt[: starts[row]] for row in rows], tokens=budget)
        return compute([samples[row] for row in rows], rows, prefix)

    yield from in_batches(batches, work, advance)


_takes_padding: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def takes_padding(decoder: Decoder) -> bool:
    """Whether rows of different lengths can go on together, tried once a model.

    Where not (positions that cannot be given, rotary tables that depend on the batch), batches hold prompts of equal
    length.
    """
    known = _takes_padding.get(decoder.model)
    if known is None:
        settings = getattr(decoder.config, "rope_parameters", None) or {}
        parts = [settings, *(value for value in settings.values() if isinstance(value, dict))]
        length_dependent = any(part.get("rope_type", part.get("type")) in LENGTH_DEPENDENT for part in parts)
        known = _takes_padding[decoder.model] = not length_dependent and _padding_works(decoder)
    return known


@torch.no_grad()
def _padding_works(decoder: Decoder) -> bool:
    size = decoder.vocabulary
    ids = [token % size for token in range(1, PROBE_TOKENS + 1)]
    rows = [ids[:-1], ids[:1]]
    last = torch.tensor([ids[-1:]] * 2, device=decoder.device)
    try:
        together = run_prefix(decoder, rows)
        found = read_on(decoder, last, together)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    wanted = torch.cat([read_on(decoder, last[:1], run_prefix(decoder, [row])) for row in rows])
    return bool((found - wanted).abs().max() <= CLOSE[decoder.dtype] * wanted.abs().max())
