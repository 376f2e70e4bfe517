"""Statistics: cluster-robust intervals over entities, exact bounds of rates, calibration error, and chance level."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from ..run.seeds import keyed_rng
from .estimate import Estimate

Values = Bool[np.ndarray, " n"] | Float[np.ndarray, " n"]
Bounds = tuple[float, float] | None
"""Between what a value lies; None: it has no bounds."""
SHARE, GAP = (0.0, 1.0), (-1.0, 1.0)
"""The bounds of a share, and of a difference of two."""
FEWEST = 10
"""Least entities for an interval: coverage is measured down to 10 (tests/benchmarks/results/coverage.md)."""
BINS = 10
"""Bins of equal width for the expected calibration error."""


def too_few(clusters: Sequence[str]) -> str:
    """Why there is no interval over these clusters; empty where there is one."""
    count = len(set(clusters))
    return "" if count >= FEWEST else f"found {count} entities, wanted at least {FEWEST} for an interval"


def estimates(
    values: Mapping[str, Values],
    clusters: Sequence[str],
    bounds: Bounds = SHARE,
    seeds: Sequence[int] | None = None,
) -> dict[str, Estimate]:
    """The mean of each of `values` over the same rows, with its 95 % interval; empty where there are no rows.

    With fewer than FEWEST clusters there is no interval but the reason for that. `seeds`: see `interval`.
    """
    reason, count, found = too_few(clusters), len(set(clusters)), {}
    for name, each in values.items() if count else ():
        low, high = (None, None) if reason else interval(each, clusters, bounds, seeds)
        found[name] = Estimate(float(each.mean()), low, high, rows=len(each), entities=count, reason=reason or None)
    return found


def by_target(rows: pl.DataFrame, marks: Mapping[str, pl.Series]) -> dict[str, Estimate]:
    """The `estimates` of marks of these rows, over their target entities and seeds."""
    values = {name: each.to_numpy() for name, each in marks.items()}
    return estimates(values, rows["target"].to_list(), seeds=rows["seed"].to_list())


def with_differences(
    scores: Mapping[str, Estimate], gaps: Mapping[str, Values], clusters: Sequence[str]
) -> dict[str, Estimate]:
    """The scores with the mean of their paired differences `gaps` (shares minus shares), where there are pairs."""
    differences = estimates(gaps, clusters, GAP)
    return {name: replace(one, difference=differences.get(name)) for name, one in scores.items()}


def interval(
    values: Values, clusters: Sequence[str], bounds: Bounds = SHARE, seeds: Sequence[int] | None = None
) -> tuple[float, float]:
    """95 % interval of the mean over n clusters (entities), from its cluster-robust variance.

    The squares of the clusters' summed residuals give the variance, and how many clusters it rests on: 1.5 (k - 1)
    degrees of freedom, k = (sum of squares)^2 / (sum of their squares). Where few carry it, as with one error among
    hundreds of rows, Student's t raises it, for values with bounds to at most what it would be if the rows of a cluster
    always agreed. A mean within bounds then has Agresti and Coull's interval (t in place of z: t^2/2 rows more at each
    bound) of so many independent rows as would have this variance; one without bounds has mean +- t standard errors.

    Where the means of all clusters agree nothing is known of their spread. Then the interval is exact (Clopper and
    Pearson): at most a share e = 1 - 0.025^(1/n) of clusters differs, and by as much as `bounds` let them. A share that
    is 0 gets [0, e], a difference of shares that is 0 gets [-e, e], and one that is 1 gets [1 - 2e, 1]. Values without
    bounds get the point itself.

    `values` with bounds are shares, or differences of two. `clusters`, `seeds`: each row's entity, and its seed,
    crossed with entities (see `between_seeds`).

    Raises:
        ValueError: fewer than FEWEST clusters (`estimates` says so instead).
    """
    if reason := too_few(clusters):
        raise ValueError(reason)
    _, entity = np.unique(np.asarray(clusters), return_inverse=True)
    mean, sizes = float(values.mean()), np.bincount(entity)
    count, (least, most) = len(sizes), bounds or (mean, mean)
    sums = np.bincount(entity, values - mean)
    extra = 0.0 if seeds is None else between_seeds(values - mean - (sums / sizes)[entity], entity, seeds)
    if np.ptp(sums / sizes) < 1e-12 and not extra:
        differs = 1 - 0.025 ** (1 / count)
        return mean - differs * (mean - least), mean + differs * (most - mean)
    squares, t = sums**2, student(count - 1)
    freedom = min(1.5 * (squares.sum() ** 2 / max((squares**2).sum(), 1e-300) - 1), count - 1)
    variance = count / (count - 1) * float(squares.sum()) / len(values) ** 2
    raised = variance * (student(max(freedom, 1)) / t) ** 2
    if not bounds:
        half = (t**2 * raised + extra) ** 0.5
        return mean - half, mean + half
    row = float(np.abs(values).mean()) - mean**2
    agreeing = row / count
    variance = max(variance, min(raised, agreeing) if freedom >= 1 else agreeing) + extra / t**2
    rows, added = row / variance, t**2
    centre = (rows * mean + added * (least + most) / 2) / (rows + added)
    spread = rows * (row + (mean - centre) ** 2) + added * ((least - centre) ** 2 + (most - centre) ** 2) / 2
    half = t * spread**0.5 / (rows + added)
    return max(least, centre - half), min(most, centre + half)


def between_seeds(rest: Float[np.ndarray, " n"], entity: Int[np.ndarray, " n"], seeds: Sequence[int]) -> float:
    """The square of what the spread between seeds adds to the half width of the interval; 0 for a single seed.

    The variance of the mean over seeds, less the part that comes if each cell (entity and seed) differs by itself,
    times the square of Student's t for (seeds - 1) degrees of freedom. `rest`: values minus their entity's mean.
    """
    names, seed = np.unique(np.asarray(seeds), return_inverse=True)
    if len(names) < 2:
        return 0.0
    levels, cells = np.bincount(seed, rest), np.bincount(entity * len(names) + seed, rest)
    found = ((levels**2).sum() - (cells**2).sum()) * len(names) / (len(names) - 1) / len(rest) ** 2
    return max(0.0, float(found)) * student(len(names) - 1) ** 2


@lru_cache
def student(freedom: int | float) -> float:
    """The 97.5 % quantile of Student's t, for at least one degree of freedom.

    tan(angle) sqrt(freedom) has that distribution where the angle has density cos(angle)^(freedom - 1).
    """
    angle = np.linspace(0, math.pi / 2, 4001)
    mass = np.cos(angle) ** (freedom - 1)
    below = np.cumsum(mass) - (mass + mass[0]) / 2
    return float(np.tan(np.interp(0.95 * below[-1], below, angle)) * freedom**0.5)


def exact_high(found: int, tried: int) -> float:
    """Upper 95 % bound, one-sided and exact (Clopper and Pearson), of the rate of which `found` of `tried` came.

    The rate at which `found` or fewer come in 5 % of cases, trials being independent: 1 - 0.05^(1/n) for none of n,
    about 3/n (the rule of three).
    """
    if found == tried:
        return 1.0
    ways = [math.lgamma(tried + 1) - math.lgamma(k + 1) - math.lgamma(tried - k + 1) for k in range(found + 1)]
    low, high = 0.0, 1.0
    while (rate := (low + high) / 2) not in (low, high):
        logs = (way + k * math.log(rate) + (tried - k) * math.log1p(-rate) for k, way in enumerate(ways))
        low, high = (rate, high) if sum(map(math.exp, logs)) > 0.05 else (low, rate)
    return high


def calibration_error(confidence: Float[np.ndarray, " n"], right: Values) -> float:
    """Expected calibration error: |mean confidence - share right| over bins of equal width, weighted by their rows.

    Few rows make it larger: in a bin the two differ by accident too.
    """
    return float(np.abs(np.bincount(bins_of(confidence), weights=confidence - right)).sum() / len(right))


def calibration(
    confidence: Float[np.ndarray, " n"], right: Values, clusters: Sequence[str], resamples: int, seed: int
) -> Estimate:
    """The calibration error with its 95 % interval, by bootstrap over clusters, or the reason why there is none.

    A row stays in its bin. Each cluster is drawn as often for the same number of rows and clusters.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    error, reason, count = calibration_error(confidence, right), too_few(clusters), len(names)
    if reason:
        return Estimate(error, rows=len(right), entities=count, reason=reason)
    gaps = np.zeros((count, BINS))
    np.add.at(gaps, (index, bins_of(confidence)), confidence - right)
    rng = keyed_rng(seed, "bootstrap", len(right))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    low, high = np.quantile(np.abs(drawn @ gaps).sum(1) / (drawn @ np.bincount(index)), [0.025, 0.975])
    return Estimate(error, float(low), float(high), rows=len(right), entities=count)


def bins_of(confidence: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bin of each confidence."""
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


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
