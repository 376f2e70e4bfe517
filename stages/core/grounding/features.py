"""The embeddings of a text's words, what of a gradient they account for, and a ridge regression from such vectors."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ..data.grammar import Report
from ..reader.vocabulary import Tokens

Blocks = Float[np.ndarray, "text block d_model"]
"""Vectors of each text, NaN where it has none."""
TOKENS = 3
"""Tokens of the name moved toward that count."""
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-12, 1))
"""Ridge strengths that are tried, times the number of training rows."""
Directions = Float[np.ndarray, "row d_model"]


def words(tokens: Tokens, said: Sequence[Report]) -> Blocks:
    """The unit embeddings of the first TOKENS of the name moved toward, and of the first of the name moved away from.

    None where a text has no such name or token, or one that the tokenizer doesn't know.
    """
    decoder = tokens.decoder
    unknown = getattr(decoder.tokenizer, "unk_token_id", None)
    found = np.full((len(said), TOKENS + 1, decoder.d_model), np.nan, np.float32)
    for row, report in enumerate(said):
        toward, away = (decoder.continuation(name) if name else [] for name in (report.moved_to, report.moved_from))
        for block, token in [*enumerate(toward[:TOKENS]), *((TOKENS, token) for token in away[:1])]:
            if token != unknown:
                found[row, block] = tokens[token].cpu().numpy()
    return found


def explained(
    tokens: Tokens, updates: Float[np.ndarray, "row d_model"], said: Sequence[Report]
) -> Float[np.ndarray, " row"]:
    """The share of each vector's squared norm in the span of its text's `words`, 0 to 1; nothing is fitted.

    0 without a word or a vector. Of a random vector it is the number of words (tokens) over d_model.
    """
    found = np.zeros(len(said), np.float32)
    for row, (update, vectors) in enumerate(zip(updates, words(tokens, said), strict=True)):
        named = vectors[np.isfinite(vectors[:, 0])]
        if len(named) and update.any():
            found[row] = update @ (np.linalg.pinv(named) @ (named @ update)) / (update @ update)
    return found.clip(0, 1)


def reconstructed(vectors: Mapping[str, Blocks], updates: Mapping[str, Directions]) -> dict[str, Directions]:
    """The directions that each set of texts gives, by a head fitted on the rows of `train`.

    The ridge strength is the one that explains most of `validation`; rows without an update are left out of both. A
    vector that a text doesn't have counts as the mean of training, so that an empty text gives the mean direction. The
    penalty pulls the weights of each vector toward a multiple of the identity, the one that fits best alone: what a
    word adds is first of all its own embedding, also where training never had it.
    """
    there = {name: updates[name].any(1) for name in ("train", "validation")}
    middle = updates["train"][there["train"]].mean(0)
    taught = vectors["train"][there["train"]]
    mean = np.nansum(taught, 0) / np.maximum(np.isfinite(taught).sum(0), 1)
    centred = {name: np.nan_to_num(each - mean) for name, each in vectors.items()}
    blocks, rest = centred["train"][there["train"]], updates["train"][there["train"]] - middle
    products = np.einsum("rbd,rcd->bc", blocks, blocks)
    scales = np.linalg.lstsq(products, np.einsum("rbd,rd->b", blocks, rest), rcond=None)[0]
    flat = {name: each.reshape(len(each), mean.size) for name, each in centred.items()}
    alone = {name: middle + np.einsum("b,rbd->rd", scales, each) for name, each in centred.items()}
    left, sizes, right = np.linalg.svd(blocks.reshape(len(blocks), mean.size), full_matrices=False)
    parts = left.T @ (rest - np.einsum("b,rbd->rd", scales, blocks))

    def given(name: str, strength: float) -> Directions:
        shrunk = sizes / (sizes**2 + strength * len(blocks))
        return alone[name] + (flat[name] @ right.T) @ (shrunk[:, None] * parts)

    def score(strength: float) -> float:
        kept = there["validation"]
        return float(shares(given("validation", strength)[kept], updates["validation"][kept]).mean())

    best = max(STRENGTHS, key=score)
    return {name: given(name, best) for name in vectors}


def shares(found: Directions, wanted: Directions) -> Float[np.ndarray, " row"]:
    """The share of each wanted vector's squared norm that the found one explains: 1 at best, below 0 for misleading."""
    return 1 - ((found - wanted) ** 2).sum(1) / np.maximum((wanted**2).sum(1), 1e-30)


def cosines(found: Directions, wanted: Directions) -> Float[np.ndarray, " row"]:
    """The cosine of each pair."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return (found * wanted).sum(1) / np.maximum(norms, 1e-12)
