"""Activation gradients of updates: weighted sums of log-probabilities of one prompt's completions."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Float32

from ..data.places import FIRST, SUBJECT
from ..data.updates import KINDS, Update
from ..model.decoder import Decoder
from .gradients import gradients_of
from .samples import Sample

SHARED = (FIRST, SUBJECT)
"""Places in the prompt, which all completions share."""


def update_gradients(
    decoder: Decoder,
    rows: Sequence[tuple[Update, Sequence[Sample]]],
    layers: Sequence[int],
    places: Sequence[str] = (FIRST,),
) -> tuple[Float32[np.ndarray, "row vector d_model"], Float32[np.ndarray, " row"]]:
    """Of each row dL/dh with L = -sum_i w_i log p(completion_i | prompt), and log p of its first completion, nats.

    The weights are those that the update's kind gives at the model's own log-probabilities; a preference's are the
    derivative of its loss. A place behind the prompt exists along one completion alone: its vector is the first's part.
    Vectors are in the order of `GradientBatch.gradient`.

    Args:
        rows: updates, each with its completions as the targets of samples with the same prompt.

    Raises:
        BadRowsError: see `activation_gradients`; its rows are those of all samples, one update's after another's.
    """
    samples = [sample for _, each in rows for sample in each]
    shared = np.repeat([place in SHARED for place in places], len(layers))
    gradient, logprob = gradients_of(decoder, samples, layers, places)
    ends = list(accumulate(len(each) for _, each in rows))
    starts = [0, *ends[:-1]]
    total = gradient[starts]
    for row, (update, _) in enumerate(rows):
        at = slice(starts[row], ends[row])
        weights = np.array(KINDS[update.kind](update, logprob[at].tolist()), np.float32)
        total[row] *= weights[0]
        total[row, shared] = np.tensordot(weights, gradient[at][:, shared], 1)
    return total, logprob[starts]
