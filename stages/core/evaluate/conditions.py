"""Conditions: what is read, in front of which hosts, by whom. To add a control, add an entry to CONDITIONS.

Randomness is keyed on the row's prompt_id, so that what a row gets is the same whatever else is evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ..data.gathering import Means
from ..reader import shams
from ..reader.gate import FAINT
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.reports import felt_by
from ..run.seeds import keyed_rng
from .baselines import extremes
from .cases import Questions, deranged

Vectors = Float[np.ndarray, "_ vector d_model"]
"""A vector for each layer at the first place, then for each at the next."""
Filled = tuple[Slots, Float[Tensor, " row"] | None]
"""What goes into the slots, and the confidence that it is an update (None: the gate had no part)."""


@dataclass(frozen=True)
class Pool:
    """What a condition may draw on, row by row.

    Attributes:
        rows: the cases; columns prompt_id, domain, target and answer.
        likeness: the distribution of training gradients.
        means: the mean activations of training prompts, by answer.
        moves: computes how each row's activation moves when the model is fine-tuned on that row.
        toward: computes the gradients of the rows' own targets, where these are no corrections of the prompts table.
    """

    rows: pl.DataFrame
    gradients: Vectors
    activations: Vectors
    seed: int
    likeness: shams.Normal
    means: Means
    moves: Callable[[], Vectors]
    toward: Callable[[], Vectors]


def gradient(pool: Pool) -> Vectors:
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


def shuffled_within(pool: Pool) -> Vectors:
    """Another row's gradient of the same domain (a derangement: no row keeps its own)."""
    taken = np.arange(len(pool.rows))
    for (name,), part in pool.rows.with_row_index("at").group_by("domain", maintain_order=True):
        assert len(part) > 1, f"{name}: one gradient, which has no other to take from: see Questions.peers"
        at = part["at"].to_numpy()
        taken[at] = at[deranged(part["prompt_id"], pool.seed, "within")]
    return pool.gradients[taken]


def shuffled_across(pool: Pool) -> Vectors:
    """Another row's gradient, whatever its domain (a derangement of all rows)."""
    return pool.gradients[deranged(pool.rows["prompt_id"], pool.seed, "across")]


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
    along = pool.activations / np.maximum(np.linalg.norm(pool.activations, axis=-1, keepdims=True), 1e-12)
    return pool.gradients - (pool.gradients * along).sum(-1, keepdims=True) * along


def steering_vector(pool: Pool) -> Vectors:
    """Minus the steering vector from answer to target, at the gradient's norm.

    The steering vector is the contrastive difference of means: mean activation of training prompts that the model
    answers with the target, minus that of those it answers with the answer. An entity without such prompts counts with
    the mean of all.
    """
    return -shams.normed(pool.means.moves(pool.rows), pool.gradients)


def fine_tuned(pool: Pool) -> Vectors:
    """Minus the difference that real fine-tuning makes to the activation at the first place, at the gradient's norm."""
    moves = np.zeros_like(pool.gradients)
    first = pool.moves()
    moves[:, : first.shape[1]] = first
    return -shams.normed(moves, pool.gradients)


def gated(reader: Reader, vectors: Vectors) -> Filled:
    """The projector's output; where the gate is shut, nothing."""
    return felt_by(reader, torch.tensor(vectors), FAINT)


def ungated(reader: Reader, vectors: Vectors) -> Filled:
    """The projector's output, whatever the gate says: silence can't pass for telling apart."""
    return reader.read(torch.tensor(vectors)), None


def constant(reader: Reader, vectors: Vectors) -> Filled:
    """The projector's output in one place: how many places a gradient has would say how many tokens the target has."""
    slots = reader.read(torch.tensor(vectors))
    return Slots(slots.felt, slots.opposite, torch.ones_like(slots.count)), None


def lens_tokens(reader: Reader, vectors: Vectors) -> Filled:
    """The token that rises most by the untrained lens, and the one that falls most.

    The whole vocabulary counts; nothing is learned and no lexicon helps.
    """
    last = len(reader.card.layers) - 1
    up, down = extremes(reader.decoder, vectors[:, last], slice(len(reader.tokens)))
    return Slots(reader.tokens[up][:, None], reader.tokens[down][:, None], torch.ones_like(up)), None


@dataclass(frozen=True)
class Condition:
    """One condition of the evaluation.

    Attributes:
        name: its key in metrics.json and in the reports table, by which the page finds its words.
        read: what is read in place of the gradients, from the pool; None: nothing is injected.
        cases: which gradients are asked about, in front of which hosts.
        fill: how the vectors get into the reader's slots.
        readers: who reads: the readers of all projector seeds; the first alone, where the projector has no part; or the
            reader of the bias-only projector.
        swapped: whether the right report has target and answer swapped.
        sham: whether it is a sham of a kind that training has not seen, which the reader should be silent about.
        opened: whether it is asked once more with the gate open, under the name `<name>_ungated`.
    """

    name: str
    read: Callable[[Pool], Vectors] | None
    cases: Callable[[Questions], pl.DataFrame] = Questions.foreign_host
    fill: Callable[[Reader, Vectors], Filled] = gated
    readers: Literal["seeds", "first seed", "bias only"] = "seeds"
    swapped: bool = False
    sham: bool = False
    opened: bool = False


CONDITIONS = (
    Condition("real", gradient, Questions.every_host),
    Condition("none", None, readers="first seed"),
    Condition("zero", sham(shams.zero)),
    Condition("random", sham(shams.gaussian)),
    Condition("covariance_matched", lambda pool: sham(pool.likeness.covariance_matched)(pool), sham=True, opened=True),
    *(Condition(name, sham(kind), sham=True) for name, kind in shams.TESTED.items()),
    Condition("shuffled_within", shuffled_within, Questions.peers),
    Condition("shuffled_across", shuffled_across),
    Condition("sign_flipped", sign_flipped, swapped=True),
    Condition("activation", activation, opened=True),
    Condition("activation_negated", activation_negated, opened=True),
    Condition("without_activation", without_activation),
    Condition("steering_vector", steering_vector, opened=True),
    Condition("lens_tokens", gradient, fill=lens_tokens, readers="first seed"),
    Condition("bias_only", gradient, fill=constant, readers="bias only"),
    Condition("fine_tuned", fine_tuned, Questions.few, opened=True),
    Condition("false_host", gradient, Questions.false_host),
    Condition("already_said", lambda pool: pool.toward(), Questions.already_said),
    Condition("any_word", lambda pool: pool.toward(), Questions.any_word),
)
ALL = (
    *CONDITIONS,
    *(
        replace(one, name=f"{one.name}_ungated", fill=ungated, sham=False, opened=False)
        for one in CONDITIONS
        if one.opened
    ),
)
"""Every condition that is asked, those with the gate open last."""
