"""Rates with intervals that a reviewer can trust: bootstrap over entities, and chance by dealing reports anew."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from stages.core.seeds import keyed_rng


def interval(right: Bool[np.ndarray, " n"], clusters: Sequence[str], resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of the mean, by bootstrap over clusters (entities), whose rows stay together.

    Where all rows agree a bootstrap can't see any spread; then the interval is the exact binomial one for as many
    independent trials as there are clusters (Clopper and Pearson): 0 of n gives [0, 1 - 0.025^(1/n)].

    Raises:
        ValueError: fewer than two clusters.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"evaluation: found {len(names)} entities, wanted at least 2 for an interval; raise prompts.test"
        )
    if right.all() or not right.any():
        bound = 0.025 ** (1 / len(names))
        return (bound, 1.0) if right.all() else (0.0, 1 - bound)
    hits = np.bincount(index, weights=right)
    sizes = np.bincount(index)
    rng = keyed_rng(seed, "bootstrap", len(right))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    means = (drawn @ hits) / (drawn @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_interval(
    gaps: Float[np.ndarray, " n"], clusters: Sequence[str], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, by bootstrap over clusters.

    Where all differences agree there is no spread to see: the interval is the point itself.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(index, weights=gaps), np.bincount(index)
    rng = keyed_rng(seed, "paired bootstrap", len(gaps))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975])
    return float(low), float(high)


def chance(said: Sequence[str], gold: Sequence[str]) -> float:
    """The share right that the same reports would have if they were dealt to the gradients at random.

    sum over words w of P(report says w) P(gold is w): reports that always say the same are right as often as that word
    is gold, and reports that say nothing are never right by chance.
    """
    words, spoken = np.unique(np.asarray(said), return_counts=True)
    golds, wanted = np.unique(np.asarray(gold), return_counts=True)
    share = dict(zip(golds.tolist(), wanted / len(gold), strict=True))
    return float(
        sum(count / len(said) * share.get(word, 0.0) for word, count in zip(words.tolist(), spoken, strict=True))
    )
