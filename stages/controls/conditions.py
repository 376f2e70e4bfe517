"""What is put in place of a gradient: one line a condition. To add a control, add a function and its line.

A condition takes all test gradients and says, for the rows asked for, what the reader gets to read. Randomness is keyed on
the row's prompt_id, so that a row's sham is the same whatever else is evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from stages.core.seeds import keyed_int, keyed_rng

Vectors = Float[np.ndarray, "sample layer d_model"]


@dataclass(frozen=True)
class Pool:
    """The gradients of `rows` (all of one evaluation group), in order, and the seed of everything random."""

    rows: pl.DataFrame
    gradients: Vectors
    seed: int


def real(pool: Pool) -> Vectors:
    """The gradient itself."""
    return pool.gradients


def zero(pool: Pool) -> Vectors:
    """A gradient of zero: what the projector says of nothing."""
    return np.zeros_like(pool.gradients)


def random(pool: Pool) -> Vectors:
    """A random direction with the gradient's own norm at each layer."""
    shape = pool.gradients.shape[1:]
    noise = np.stack([keyed_rng(pool.seed, "random", row).standard_normal(shape) for row in pool.rows["prompt_id"]])
    norms = np.linalg.norm(pool.gradients, axis=-1, keepdims=True)
    return (noise / np.linalg.norm(noise, axis=-1, keepdims=True) * norms).astype(np.float32)


def sign_flipped(pool: Pool) -> Vectors:
    """Minus the gradient: target and answer have to swap."""
    return -pool.gradients


def shuffled_within(pool: Pool) -> Vectors:
    """Another row's gradient of the same domain (a derangement: no row keeps its own)."""
    taken = np.arange(len(pool.rows))
    for (_,), part in pool.rows.with_row_index("at").group_by("domain", maintain_order=True):
        at = part["at"].to_numpy()
        order = at[np.argsort([keyed_int(pool.seed, "within", row) for row in part["prompt_id"]])]
        taken[order] = np.roll(order, 1)
    return pool.gradients[taken]


def shuffled_across(pool: Pool) -> Vectors:
    """Another row's gradient, whatever its domain (a derangement of all rows)."""
    order = np.argsort([keyed_int(pool.seed, "across", row) for row in pool.rows["prompt_id"]])
    taken = np.empty_like(order)
    taken[order] = np.roll(order, 1)
    return pool.gradients[taken]


CONDITIONS: dict[str, Callable[[Pool], Vectors] | None] = {
    "real": real,
    "none": None,  # no injection: the slots keep the slot token's own embedding
    "zero": zero,
    "random": random,
    "shuffled_within": shuffled_within,
    "shuffled_across": shuffled_across,
    "sign_flipped": sign_flipped,
}
SWAPPED = ("sign_flipped",)
"""Conditions whose right report has target and answer swapped."""
