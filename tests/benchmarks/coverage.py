"""Measures how often the intervals of stages/core/evaluate/statistics.py hold the true value, and how wide they are.

Draws tables whose true mean is known: 10, 20 or 50 entities of 6 to 30 rows, entities beta-distributed around the rate
with an intra-cluster correlation of .05, .2 or .5. The named peer is the percentile bootstrap over entities, exact
where all agree. Writes tests/benchmarks/results/coverage.json and .md.

  python -m tests.benchmarks.coverage    two minutes of processor time
"""

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from stages.core.evaluate.statistics import GAP, SHARE, Bounds, interval

RESULTS = Path(__file__).parent / "results"
RATES = (0.5, 0.9, 0.97, 0.99, 1.0)
CLUSTERS = (10, 20, 50)
CORRELATIONS = (0.05, 0.2, 0.5)
TRIALS, RESAMPLES = 1000, 1000
Table = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Values, clusters and seeds, one each a row."""
Method = Callable[[Table, Bounds], tuple[float, float]]


def shares(rng: np.random.Generator, rate: float, clusters: int, correlation: float) -> Table:
    """Right or wrong: each entity's rate from a beta distribution."""
    entity = np.repeat(np.arange(clusters), rng.integers(6, 31, clusters))
    pull = 1 / correlation - 1
    own = rng.beta(rate * pull, (1 - rate) * pull, clusters) if rate < 1 else np.ones(clusters)
    return (rng.random(len(entity)) < own[entity]).astype(float), entity, None


def gaps(rng: np.random.Generator, more: float, less: float, clusters: int, correlation: float) -> Table:
    """Paired differences: +1, -1 or 0, each entity's shares of them from a Dirichlet distribution."""
    entity = np.repeat(np.arange(clusters), rng.integers(6, 31, clusters))
    parts = np.array([more, less, 1 - more - less]) * (1 / correlation - 1)
    own = np.zeros((clusters, 3))
    own[:, parts > 0] = rng.dirichlet(parts[parts > 0], clusters)
    drawn = rng.random(len(entity))
    up, down = own[entity, 0], own[entity, 1]
    return (drawn < up).astype(float) - ((drawn >= up) & (drawn < up + down)), entity, None


def means(rng: np.random.Generator, kind: str, clusters: int, correlation: float) -> Table:
    """Values without bounds and of mean 0, spread between entities as a normal or an exponential distribution."""
    entity = np.repeat(np.arange(clusters), rng.integers(6, 31, clusters))
    own = rng.standard_normal(clusters) if kind == "normal" else rng.exponential(1, clusters) - 1
    noise = rng.standard_normal(len(entity)) * (1 / correlation - 1) ** 0.5
    return own[entity] + noise, entity, None


def crossed(rng: np.random.Generator, rate: float, clusters: int, seeds: int, spread: float) -> Table:
    """The same rows read by several seeds: right where a normal variable is below the quantile of the rate.

    The variable is the sum of an entity's, a row's, a seed's (standard deviation `spread`) and a cell's (a row and
    seed) share; entities have a fifth of the variance without seeds, rows and cells two fifths each.
    """
    once = np.repeat(np.arange(clusters), rng.integers(6, 31, clusters))
    own = 0.2**0.5 * rng.standard_normal(clusters)[once] + 0.4**0.5 * rng.standard_normal(len(once))
    latent = own + spread * rng.standard_normal((seeds, 1)) + 0.4**0.5 * rng.standard_normal((seeds, len(once)))
    right = latent < NormalDist(0, (1 + spread**2) ** 0.5).inv_cdf(rate)
    return right.astype(float).ravel(), np.tile(once, seeds), np.repeat(np.arange(seeds), len(once))


def ours(table: Table, bounds: Bounds) -> tuple[float, float]:
    """The interval of the evaluation."""
    values, entity, seed = table
    return interval(values, entity.astype(str).tolist(), bounds, None if seed is None else seed.tolist())


@cache
def resamples(clusters: int) -> np.ndarray:
    """How often each cluster is drawn in each resample."""
    return np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(float)


def bootstrapped(table: Table, bounds: Bounds) -> tuple[float, float]:
    """The percentile bootstrap over entities, blind to seeds."""
    values, entity, _ = table
    sums, sizes = np.bincount(entity, values), np.bincount(entity)
    count, mean = len(sizes), values.mean()
    if np.ptp(sums / sizes) < 1e-12:
        least, most = bounds or (mean, mean)
        differs = 1 - 0.025 ** (1 / count)
        return mean - differs * (mean - least), mean + differs * (most - mean)
    drawn = resamples(count)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975])
    return low, high


def covered(draw: Callable[[np.random.Generator], Table], true: float, bounds: Bounds, trials: int, *methods: Method):
    """Of each method how often its interval holds the true mean, and how wide it is on average."""
    rng = np.random.default_rng(0)
    found = np.array([[method(table, bounds) for method in methods] for table in map(draw, [rng] * trials)])
    low, high = found[..., 0], found[..., 1]
    holds = (low <= true + 1e-9) & (true <= high + 1e-9)
    return [tuple(map(float, each)) for each in zip(holds.mean(0), (high - low).mean(0), strict=True)]


def cases() -> Iterator[tuple[str, Callable[[np.random.Generator], Table], float, Bounds]]:
    """Every case: its name, how a table is drawn, the true mean and the bounds of values."""
    for clusters in CLUSTERS:
        for rate in RATES:
            for rho in CORRELATIONS if rate < 1 else CORRELATIONS[:1]:
                name = f"share {rate:g} | {clusters} | {rho if rate < 1 else '-'} | 1"
                yield name, lambda rng, a=(rate, clusters, rho): shares(rng, *a), rate, SHARE
        for more, less in ((0.3, 0.1), (0.02, 0.02), (0.03, 0.0), (0.97, 0.0)):
            for rho in CORRELATIONS[:2]:
                name = f"difference, +1 in {more:g}, -1 in {less:g} | {clusters} | {rho} | 1"
                yield name, lambda rng, a=(more, less, clusters, rho): gaps(rng, *a), more - less, GAP
        for kind in ("normal", "exponential"):
            yield f"{kind} mean | {clusters} | 0.2 | 1", lambda rng, a=(kind, clusters, 0.2): means(rng, *a), 0.0, None
        for seeds, spread in ((2, 0.3), (3, 0.0), (3, 0.3), (5, 0.3)):
            for rate in (0.5, 0.97):
                name = f"share {rate:g}, seeds apart by {spread} | {clusters} | 0.2 | {seeds}"
                yield name, lambda rng, a=(rate, clusters, seeds, spread): crossed(rng, *a), rate, SHARE


def main() -> None:
    """Runs every case and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    trials = parser.parse_args().trials
    rows, found = [], []
    for name, draw, true, bounds in cases():
        (own, width), (old, narrow) = covered(draw, true, bounds, trials, ours, bootstrapped)
        found.append({"case": name, "coverage": own, "width": width, "bootstrap": old, "bootstrap width": narrow})
        rows.append(f"| {name} | {own:.3f} | {width:.3f} | {old:.3f} | {narrow:.3f} |")
        print(rows[-1], flush=True)
    facts = {"date": str(date.today()), "trials": trials, "resamples of the bootstrap": RESAMPLES}
    stem = RESULTS / "coverage"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "cases": found}, indent=2) + "\n", encoding="utf-8")
    lines = ["# How often 95 % intervals hold the true mean, beside the percentile bootstrap over entities", ""]
    lines += [f"{key}: {value}  " for key, value in facts.items()]
    lines += [
        "",
        "| mean of | entities | intra-cluster correlation | seeds | coverage | width | bootstrap's | its width |",
    ]
    lines += ["|---" * 8 + "|", *rows]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
