"""The embeddings of a text's words, and what of a gradient they account for."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ..data.grammar import Report
from ..reader.vocabulary import Tokens

Blocks = Float[np.ndarray, "text block d_model"]
"""Vectors of each text, NaN where it has none."""
TOKENS = 3
"""Tokens of the name moved toward that count."""


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
