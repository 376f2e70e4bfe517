"""Batches: the sum of several corrections' gradients, taken apart into words of the model and reported as a set.

The gate has no part, since it asks for two words, and a sum of four corrections has eight. Nor does anything find out
how many corrections there are: that is told.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..data.gathering import Gathered
from ..data.grammar import Report, parse_report
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.reports import longest_names
from ..reader.vocabulary import Tokens
from .baselines import first_tokens, likeness, unembedded
from .cases import by_hash
from .estimate import Estimate
from .section import Evaluation
from .statistics import estimates

SIZES = {"two": 2, "four": 4}
ROUNDS = 3
"""How often each word is chosen anew while the others stand; chosen on validation rows."""
Words = Int[Tensor, "row word"]


def batch_scores(reader: Reader, data: Gathered, cases: pl.DataFrame, how: Evaluation) -> dict[str, Any]:
    """How many corrections of a batch are named, for batches of SIZES that these cases make.

    `toward`, `away`: the target, or the answer, is in the set. `pairs`: both are, and for each other. `_first`: only
    first tokens are compared. `model`: the reports. Without a model: `words`, the tokens that the vector is taken apart
    into; `lens`, the tokens, of those that names begin with, that the vector raises and lowers most; `nearest`, the
    names nearest to it. Chance is that of the set of another batch.
    """
    cases = by_hash(cases.unique("prompt", keep="first", maintain_order=True), how.seed, "batch", "prompt_id")
    lexicon, found = sorted({*data.rows["target"]}), {}
    for name, size in SIZES.items():
        rows = cases[: len(cases) // size * size]
        if len(rows) > size:
            found[name] = {"batches": len(rows) // size, **scores_of(reader, data, rows, size, lexicon, how)}
    return found


def scores_of(
    reader: Reader, data: Gathered, cases: pl.DataFrame, size: int, lexicon: Sequence[str], how: Evaluation
) -> dict[str, dict[str, Estimate]]:
    """The scores of batches of `size` cases, one after another; each stands in front of its first case's host."""
    gradients = data.gradient[cases["row"].to_numpy()]
    sums = gradients.reshape(-1, size, *gradients.shape[1:]).sum(1)
    slots = reader.read(torch.from_numpy(sums))
    apart = taken_apart(reader.tokens, slots.felt[:, 0], size)
    said = set_of(reader, slots, apart, cases["host"].gather_every(size).to_list(), how.report_tokens)
    starts = first_tokens(reader.decoder, lexicon).unique()
    near = likeness(reader, slots, lexicon)[0].topk(size).indices.tolist()
    shift = unembedded(reader.decoder, sums[:, len(reader.card.layers) - 1])[:, starts]
    lens = torch.stack([starts[way.topk(size).indices] for way in (shift, -shift)], -1)
    names = [[(one.moved_to, one.moved_from) for one in each] for each in said]
    pairs = list(cases.select("target", "answer").iter_rows())
    marked = {
        ("model", ""): marks(names, pairs),
        ("nearest", ""): marks([[(lexicon[at], "") for at in each] for each in near], pairs),
    }
    tokens = {
        "model": [[tuple(first(reader, name) for name in pair) for pair in each] for each in names],
        "words": [list(map(tuple, each)) for each in torch.stack(apart, -1).tolist()],
        "lens": [list(map(tuple, each)) for each in lens.tolist()],
    }
    right = [tuple(first(reader, name) for name in pair) for pair in pairs]
    marked |= {(name, "_first"): marks(each, right) for name, each in tokens.items()}
    found: dict[str, dict[str, Estimate]] = {name: {} for name, _ in marked}
    for (name, how_much), each in marked.items():
        kept = {"nearest": ("toward",), "lens": ("toward", "away")}.get(name, tuple(each))
        scores = estimates({mark: each[mark][0] for mark in kept}, cases["target"].to_list())
        found[name] |= {f"{mark}{how_much}": replace(one, chance=each[mark][1]) for mark, one in scores.items()}
    return found


def marks(sets: Sequence[Sequence[tuple[Any, ...]]], right: Sequence[tuple[Any, ...]]) -> dict[str, tuple[Any, float]]:
    """For each case whether the set of its batch has its target, its answer, and both for each other; and chance."""
    size, found = len(right) // len(sets), {}
    for mark, part in {"toward": slice(1), "away": slice(1, 2), "pairs": slice(2)}.items():
        named = [{one[part] for one in each} for each in sets]
        own, another = (
            np.array([pair[part] in named[(row // size + by) % len(sets)] for row, pair in enumerate(right)])
            for by in (0, 1)
        )
        found[mark] = own, float(another.mean())
    return found


def first(reader: Reader, name: str) -> int:
    """A name's first token; -1 where nothing is named."""
    return reader.decoder.continuation(name)[0] if name else -1


def taken_apart(tokens: Tokens, felt: Float[Tensor, "row d_model"], size: int) -> tuple[Words, Words]:
    """The tokens that a sum of `size` corrections moves toward, and, in that order, what it moves away from for each.

    Orthogonal matching pursuit (Pati et al. 1993) over all tokens of the model: one by one, toward or away, the token
    nearest to what the others leave. ROUNDS times each is then chosen anew. Of four orders of toward and away that one
    counts which leaves least. Tokens are paired so that the sum of their cosines is largest: what is said in another's
    place is of its kind, and names of a kind lie near each other.
    """
    felt, ups, downs = F.normalize(felt, dim=-1), list(range(size)), list(range(size, 2 * size))
    best = torch.zeros((len(felt), 2 * size), dtype=torch.long, device=felt.device)
    least = torch.full_like(felt[:, 0], torch.inf)
    mixed = [[at for pair in zip(*both, strict=True) for at in pair] for both in ((ups, downs), (downs, ups))]
    for turns in (ups + downs, downs + ups, *mixed):
        ids, known = torch.zeros_like(best), set[int]()
        for at in turns * (1 + ROUNDS):
            others = ids[:, torch.tensor(sorted(known - {at}), dtype=torch.long, device=felt.device)]
            cosines = tokens.cosines(without(tokens, felt, others)) * (1 if at < size else -1)
            ids[:, at] = cosines.scatter(1, others, -torch.inf).argmax(1)
            known.add(at)
        left = without(tokens, felt, ids).norm(dim=-1)
        best, least = torch.where((left < least)[:, None], ids, best), left.minimum(least)
    up, down = best.split(size, 1)
    orders = torch.tensor(list(permutations(range(size))), device=felt.device)
    alike = (tokens[up] @ tokens[down].mT)[:, torch.arange(size, device=felt.device), orders].sum(-1)
    return up, down.gather(1, orders[alike.argmax(1)])


def without(tokens: Tokens, felt: Float[Tensor, "row d_model"], ids: Words) -> Float[Tensor, "row d_model"]:
    """What is left of each vector outside the span of some tokens' directions."""
    words = tokens[ids]
    return felt - (felt[:, None] @ torch.linalg.pinv(words) @ words)[:, 0]


def set_of(
    reader: Reader, slots: Slots, apart: tuple[Words, Words], hosts: Sequence[str | None], tokens: int
) -> list[list[Report]]:
    """The reports on each batch, pair by pair: on the part of it along a pair's words that is along no other pair's."""
    parts, size, every = [], apart[0].shape[1], torch.cat(apart, 1)
    for pair in range(size):
        others = torch.cat([part for way in apart for part in (way[:, :pair], way[:, pair + 1 :])], 1)
        felt, opposite = (
            torch.cat([(without(reader.tokens, one, others) - without(reader.tokens, one, every))[:, None], rest], 1)
            for one, rest in ((each[:, 0], each[:, 1:]) for each in (slots.felt, slots.opposite))
        )
        texts = longest_names(reader, Slots(felt, opposite, slots.count), hosts, tokens)
        parts.append([parse_report(text) for text in texts])
    return [list(each) for each in zip(*parts, strict=True)]
