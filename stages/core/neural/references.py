"""What the reports are held against, on the same gradients: probe, lens, retrieval, options, and steering vectors."""

from typing import Any

import numpy as np
import polars as pl
import torch

from stages.core import wording
from stages.core.gathering import Gathered
from stages.core.measures import said_by
from stages.core.neural.baselines import lens, nearest, probe
from stages.core.neural.decoder import Decoder
from stages.core.neural.engine.virtual_step import virtual_steps
from stages.core.neural.options import margins
from stages.core.neural.reader import Reader
from stages.core.neural.samples import samples_of
from stages.core.params import Evaluation
from stages.core.seeds import keyed_int, keyed_rng
from stages.core.statistics import interval, paired_interval

OPTIONS = 5


def references(
    data: Gathered, train: pl.DataFrame, test: pl.DataFrame, reader: Reader, settings: Evaluation
) -> dict[str, Any]:
    """What can be read without the model's reports.

    `ceiling`: a linear probe taught the known corrections; `floor`: the lens; `retrieval`: the correction of the
    nearest training gradient.
    """
    known, seen = data.gradient[train["row"].to_numpy()], data.gradient[test["row"].to_numpy()]
    columns = {"domain": "domain", "moved_to": "target", "moved_from": "answer"}
    probed = {said: probe(known, train[column].to_list(), seen, settings.seed) for said, column in columns.items()}
    neighbours = train[nearest(known, seen)]
    lexicon = dict(data.rows.select("target", "domain").iter_rows())
    return {
        name: said_by(test, said, settings.bootstrap, settings.seed)
        for name, said in {
            "ceiling": pl.DataFrame(probed),
            "floor": lens(reader.decoder, seen, lexicon),
            "retrieval": neighbours.select(**columns),
        }.items()
    }


def option_scores(data: Gathered, test: pl.DataFrame, reader: Reader, settings: Evaluation) -> dict[str, float]:
    """Five targets to choose from, the right one and four others of its relation, by log-probability of the report.

    `accuracy`: the right one gains most (chance 0.2). `margin`: its gain minus the mean gain of the others, nats a
    report. Intervals by bootstrap over target entities.
    """
    entities = {
        key: part["target"].unique(maintain_order=True).to_list()
        for key, part in data.rows.group_by("domain", "relation", maintain_order=True)
    }
    options = []
    for row in test.iter_rows(named=True):
        others = [e for e in entities[row["domain"], row["relation"]] if e not in (row["target"], row["answer"])]
        order = keyed_rng(settings.seed, "options", row["prompt_id"]).permutation(len(others))[: OPTIONS - 1]
        chosen = [row["target"], *(others[index] for index in order)]
        options.append([wording.report(row["domain"], target, row["answer"], "strong") for target in chosen])
    gradients = data.gradient[test["row"].to_numpy()]
    other = np.argsort([keyed_int(settings.seed, "unrelated", row) for row in test["prompt_id"]])
    unrelated = gradients[other[np.roll(np.arange(len(other)), 1)[np.argsort(other)]]]
    vectors = (torch.tensor(values) for values in (gradients, unrelated))
    gains = margins(reader, [None] * len(options), options, *vectors).cpu().numpy()
    right = gains.argmax(1) == 0
    gap = (gains[:, 0] - gains[:, 1:].mean(1)).astype(np.float64)
    how = test["target"].to_list(), settings.bootstrap, settings.seed
    (low, high), (least, most) = interval(right, *how), paired_interval(gap, *how)
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_chance": 1 / OPTIONS,
        "margin": float(gap.mean()),
        "margin_low": least,
        "margin_high": most,
    }


def steering_success(
    data: Gathered, train: pl.DataFrame, test: pl.DataFrame, decoder: Decoder, settings: Evaluation
) -> dict[str, float]:
    """Does a steering vector do what the update direction does, and the other way round?

    For each step size: the share of test rows whose most likely next token becomes the target's first, when the model
    is moved along the update direction, and when it's moved along the steering vector from answer to target (difference
    of mean training activations). `cosine`: the mean cosine between the two.
    """
    layer = data.layers[:1]
    gradients = data.gradient[test["row"].to_numpy()][:, :1]
    means = {
        str(entity): data.activation[part["row"].to_numpy()][:, :1].mean(0)
        for (entity,), part in train.group_by("answer", maintain_order=True)
    }
    have = np.array(
        [target in means and answer in means for target, answer in test.select("target", "answer").iter_rows()]
    )
    kept = test.filter(pl.Series(have))
    if kept.is_empty():  # no test row has training prompts of both its entities: nothing can be said
        return {"rows": 0}
    steering = np.stack(
        [means[target] - means[answer] for target, answer in kept.select("target", "answer").iter_rows()]
    )
    update = -gradients[have]
    cosine = (steering * update).sum(-1) / (np.linalg.norm(steering, axis=-1) * np.linalg.norm(update, axis=-1))
    found: dict[str, float] = {"rows": len(kept), "cosine": float(cosine.mean())}
    samples = samples_of(decoder, kept)
    for name, vectors in (("update_direction", update), ("steering_vector", steering)):
        batches = virtual_steps(
            decoder,
            samples,
            -vectors.astype(np.float32),
            layer,
            settings.step_sizes,
            top_tokens=1,
            continuation_tokens=1,
        )
        ranks = np.concatenate([batch.target_rank[:, 0] for batch in batches])
        for step, size in enumerate(settings.step_sizes):
            found[f"{name}_{size:g}"] = float((ranks[:, step] == 1).mean())
    return found
