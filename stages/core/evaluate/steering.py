"""Steering: what a step along a steering vector does, beside a step along the update direction."""

from typing import Any

import numpy as np
import polars as pl

from ..data.gathering import Gathered, Means
from ..engine.samples import samples_of
from ..model.decoder import Decoder
from ..steps.virtual_step import virtual_steps
from .section import Evaluation
from .statistics import estimates


def steering_success(
    data: Gathered, train: pl.DataFrame, test: pl.DataFrame, decoder: Decoder, settings: Evaluation
) -> dict[str, Any]:
    """Does a steering vector do what the update direction does, and the other way round?

    For each step size: the share of test rows whose most likely next token becomes the target's first, when the model
    is moved along the update direction, and when it's moved along the steering vector from answer to target (difference
    of mean training activations). `cosine`: the mean cosine between the two. Intervals over target
    entities. `rows`: those with training prompts of both their entities; without any nothing else is said.
    """
    layer = data.layers[:1]
    wanted = {*test["target"], *test["answer"]}
    means = Means.of(data.activation, train, wanted)
    kept = test.filter(pl.all_horizontal(pl.col("target", "answer").is_in(list(means.by_name))))
    found: dict[str, Any] = {"rows": len(kept)}
    if kept.is_empty():
        return found
    steering = means.moves(kept)[:, :1]
    update = -data.gradient[kept["row"].to_numpy()][:, :1]
    norms = np.linalg.norm(steering, axis=-1) * np.linalg.norm(update, axis=-1)
    cosine = ((steering * update).sum(-1) / norms)[:, 0].astype(np.float64)
    clusters = kept["target"].to_list()
    found |= estimates({"cosine": cosine}, clusters, bounds=(-1.0, 1.0))
    samples = samples_of(decoder, kept)
    for name, vectors in (("update_direction", update), ("steering_vector", steering)):
        ranks = np.zeros((len(kept), len(settings.step_sizes)), dtype=int)
        for batch in virtual_steps(
            decoder,
            samples,
            -vectors.astype(np.float32),
            layer,
            settings.step_sizes,
            top_tokens=1,
            continuation_tokens=0,
        ):
            ranks[batch.rows] = batch.target_rank[:, 0]
        first = {f"{name}_{size:g}": ranks[:, step] == 1 for step, size in enumerate(settings.step_sizes)}
        found |= estimates(first, clusters)
    return found
