"""What is put in place of a gradient: one line a condition. To add a control, add a function and its line.

A condition takes the evaluated rows with their gradients and says what the reader gets to read instead. Randomness is
keyed on the row's prompt_id, so that a row's sham is the same whatever else is evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from ..data.gathering import Means
from ..reader import shams
from ..run.errors import InputError
from ..run.seeds import keyed_int, keyed_rng

Vectors = Float[np.ndarray, "_ layer d_model"]


@dataclass(frozen=True)
class Pool:
    """What a condition may use, row by row.

    `rows` has prompt_id, domain, target and answer. `reference`: the norm that "strong" and "weak" are told apart at.
    `likeness`: the distribution of training gradients. `means`: the mean activations of training prompts, by answer.
    """

    rows: pl.DataFrame
    gradients: Vectors
    activations: Vectors
    reference: Float[np.ndarray, " layer"]
    seed: int
    likeness: shams.Normal
    means: Means


def real(pool: Pool) -> Vectors:
    """The gradient itself."""
    return pool.gradients


def sign_flipped(pool: Pool) -> Vectors:
    """Minus the gradient: target and answer have to swap."""
    return -pool.gradients


def sham(kind: shams.Sham) -> Callable[[Pool], Vectors]:
    """A sham of one kind for each row."""

    def make(pool: Pool) -> Vectors:
        pairs = zip(pool.rows["prompt_id"], pool.gradients, strict=True)
        return np.stack([kind(keyed_rng(pool.seed, kind.__name__, row), gradient) for row, gradient in pairs])

    return make


def covariance_matched(pool: Pool) -> Vectors:
    """Gaussian vectors with the mean and covariance of the training gradients, at each gradient's norm."""
    return sham(pool.likeness.covariance_matched)(pool)


def shuffled_within(pool: Pool) -> Vectors:
    """Another row's gradient of the same domain (a derangement: no row keeps its own).

    Raises:
        InputError: a domain has one row, which has no other to take from.
    """
    taken = np.arange(len(pool.rows))
    for (name,), part in pool.rows.with_row_index("at").group_by("domain", maintain_order=True):
        if len(part) == 1:
            raise InputError(
                f"shuffled_within: found one gradient of domain {name!r}, wanted at least 2 to shuffle; "
                "raise evaluation.gradients or prompts.test"
            )
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


def activation(pool: Pool) -> Vectors:
    """The activation in place of the update direction, at the gradient's norm: is the prompt being inverted?

    A reader sees minus what it is given, so this is minus the activation. The activation itself points to what the
    model would say, the answer.
    """
    return -activation_negated(pool)


def activation_negated(pool: Pool) -> Vectors:
    """Minus the activation in place of the update direction, at the gradient's norm: away from the answer.

    Of the two signs the one that could score: real gradients move away from the answer too.
    """
    return shams.normed(pool.activations, pool.gradients)


def without_activation(pool: Pool) -> Vectors:
    """The gradient without its component along the activation."""
    along = pool.activations / np.linalg.norm(pool.activations, axis=-1, keepdims=True)
    return pool.gradients - (pool.gradients * along).sum(-1, keepdims=True) * along


def steering_vector(pool: Pool) -> Vectors:
    """Minus the steering vector from answer to target, at the gradient's norm.

    The steering vector is the contrastive difference of means: mean activation of training prompts that the model
    answers with the target, minus that of those it answers with the answer. An entity without such prompts counts with
    the mean of all.
    """
    means, overall = pool.means.by_name, pool.means.overall
    moves = [
        means.get(target, overall) - means.get(answer, overall)
        for target, answer in pool.rows.select("target", "answer").iter_rows()
    ]
    return -shams.normed(np.stack(moves), pool.gradients)


def scaled(factor: float) -> Callable[[Pool], Vectors]:
    """The gradient at `factor` times the reference norm: its direction is kept, its strength is known."""

    def make(pool: Pool) -> Vectors:
        norms = np.linalg.norm(pool.gradients, axis=-1, keepdims=True)
        return (pool.gradients / norms * factor * pool.reference[:, None]).astype(np.float32)

    return make


STRENGTHS = {"much_weaker": 1 / 9, "weaker": 1 / 3, "stronger": 3.0, "much_stronger": 9.0}
"""Conditions of known strength: the gradient's norm in units of the reference norm."""
CONDITIONS: dict[str, Callable[[Pool], Vectors] | None] = {
    "real": real,
    "none": None,  # no injection: the slots keep the slot token's own embedding
    "zero": sham(shams.zero),
    "random": sham(shams.gaussian),
    "covariance_matched": covariance_matched,
    **{name: sham(kind) for name, kind in shams.TESTED.items()},
    "shuffled_within": shuffled_within,
    "shuffled_across": shuffled_across,
    "sign_flipped": sign_flipped,
    **{name: scaled(factor) for name, factor in STRENGTHS.items()},
    "activation": activation,
    "activation_negated": activation_negated,
    "without_activation": without_activation,
    "steering_vector": steering_vector,
}
SWAPPED = ("sign_flipped",)
"""Conditions whose right report has target and answer swapped."""
SHAMS = ("covariance_matched", *shams.TESTED)
"""Shams of kinds that training has not seen: what abstention is tested on."""
