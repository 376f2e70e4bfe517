"""A ridge regression from a text's vectors to the unit update direction, fitted in closed form."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from .features import Blocks

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-12, 1))
"""Ridge strengths that are tried, times the number of training rows."""
Directions = Float[np.ndarray, "row d_model"]


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
