"""The frozen model's reading of a text: which of its words a trained head picks by what the model makes of them.

A head of QUERIES vectors looks at the model's residual streams on the text, each with a softmax over the tokens, and
takes the mean of the tokens' directions under it. A token is known by its own streams and those of the token in front,
before the first block and after a later one. So the head can point at a word that it never saw, by the part that it
plays. What the words then give is fitted in closed form (features.py).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ..engine.batches import Rows, in_batches, plan, token_budget
from ..model.checkpoints import one_thread, reproducibly
from ..reader.vocabulary import Tokens
from ..run.seeds import keyed_rng
from .features import Blocks, Directions
from .texts import once_each

QUERIES = 4
SHARPNESS = 3.0
"""What a cosine between a query of norm 1 and a stream is multiplied by, at the least."""
ROWS = 1024
"""Training rows that the queries learn from: their streams are kept in memory."""
STEPS, BATCH, RATE = 400, 128, 0.05

KNOWN_BY = 4
"""Unit residual streams that a token is known by."""
Queries = Float[Tensor, "query key"]
Streams = tuple[Float[Tensor, "text token key"], Float[Tensor, "text token d_model"], Bool[Tensor, "text token"]]
"""What each token is known by, the tokens' own unit directions, and which tokens there are."""


def streams(tokens: Tokens, texts: Sequence[str], layer: int) -> Iterator[tuple[Rows, Streams]]:
    """The streams of texts that have a token, some of a length at a time, with the texts' numbers.

    `layer`: the block after which the second stream of each token is taken.
    """
    decoder = tokens.decoder
    ids = [decoder.tokens(text) if text else [] for text in texts]
    read = np.array([number for number, each in enumerate(ids) if each], int)

    @torch.no_grad()
    def compute(rows: Rows) -> tuple[Rows, Streams]:
        batch = torch.tensor([ids[number] for number in read[rows]], device=decoder.device)
        hidden = decoder.body(input_ids=batch, use_cache=False, output_hidden_states=True).hidden_states
        own = torch.cat([F.normalize(hidden[at].to(decoder.device).float(), dim=-1) for at in (0, layer + 1)], dim=-1)
        in_front = F.pad(own, (0, 0, 1, -1))
        there = torch.ones_like(batch, dtype=torch.bool)
        return read[rows], (torch.cat([own, in_front], dim=-1), tokens[batch], there)

    lengths = [(len(ids[number]), 0) for number in read]
    batches = plan(lengths, tokens=token_budget(decoder), rows=max(len(read), 1), join="equal")
    return in_batches(batches, compute, None)


def pooled(queries: Queries, seen: Streams) -> Float[Tensor, "text query d_model"]:
    """The mean of the tokens' directions under each query's softmax over the streams."""
    keys, values, there = seen
    scores = SHARPNESS * (keys @ queries.T).masked_fill(~there[..., None], -torch.inf)
    return scores.softmax(1).transpose(1, 2) @ values


@one_thread()
@reproducibly()
def learned(
    tokens: Tokens, forms: Sequence[Sequence[str]], updates: Directions, layer: int, seeds: Sequence[int]
) -> list[Queries]:
    """Of each seed queries that point at what makes the update.

    They have the least squared error of a weighted sum of what they take, and a bias, both thrown away. AdamW on a
    one-cycle schedule, STEPS steps of BATCH of the first ROWS rows, on one thread.

    `forms`: the texts of the rows of `updates`, in several forms of sentence, which take turns.
    """
    wanted = torch.from_numpy(updates[:ROWS]).float().to(tokens.decoder.device)
    kept = [together(tokens, texts[:ROWS], layer) for texts in forms]
    heads = []
    for seed in seeds:
        rng = keyed_rng(seed, "queries", layer)
        drawn = rng.standard_normal((QUERIES, KNOWN_BY * wanted.shape[1]), np.float32)
        queries = 0.1 * torch.from_numpy(drawn).to(wanted)
        weights = 0.3 * torch.from_numpy(rng.standard_normal(QUERIES, np.float32)).to(wanted)
        bias = torch.zeros_like(wanted[0])
        learning = [each.requires_grad_() for each in (queries, weights, bias)]
        optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1)
        for step in range(STEPS):
            rows = torch.from_numpy(rng.integers(len(wanted), size=BATCH)).to(wanted.device)
            keys, values, there = kept[step % len(kept)]
            taken = pooled(queries, (keys[rows], values[rows], there[rows]))
            loss = F.mse_loss((taken * weights[:, None]).sum(1) + bias, wanted[rows], reduction="sum") / BATCH
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        heads.append(queries.detach())
    return heads


def together(tokens: Tokens, texts: Sequence[str], layer: int) -> Streams:
    """The streams of these texts, zeros behind their ends; a text without a token has one of zeros."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    parts = list(streams(tokens, list(numbers), layer))
    width, size = max((seen[0].shape[1] for _, seen in parts), default=1), tokens.decoder.d_model
    keys, values = (torch.zeros(len(numbers), width, n * size, device=tokens.decoder.device) for n in (KNOWN_BY, 1))
    there = torch.zeros(len(numbers), width, dtype=torch.bool, device=tokens.decoder.device)
    there[:, 0] = True
    for rows, seen in parts:
        at, end = torch.from_numpy(rows).to(there.device), seen[0].shape[1]
        keys[at, :end], values[at, :end], there[at, :end] = seen
    own = torch.tensor([numbers[text] for text in texts], device=there.device)
    return keys[own], values[own], there[own]


@torch.no_grad()
def reading(
    tokens: Tokens, texts: Mapping[str, Sequence[str]], layer: int, heads: Sequence[Queries]
) -> list[dict[str, Blocks]]:
    """Of each head what its queries take of several sets of texts; NaN where a text has no token.

    Equal texts are read once, for all heads.
    """

    def picked(distinct: list[str]) -> Float[np.ndarray, "text head query d_model"]:
        found = np.full((len(distinct), len(heads), QUERIES, tokens.decoder.d_model), np.nan, np.float32)
        for rows, seen in streams(tokens, distinct, layer):
            for number, queries in enumerate(heads):
                found[rows, number] = pooled(queries, seen).cpu().numpy()
        return found

    found = once_each(picked, texts)
    return [{name: each[:, number] for name, each in found.items()} for number in range(len(heads))]
