"""What the reports are held against, on the same gradients: probe, lens, retrieval, options, and steering vectors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from ..data import grammar
from ..data.gathering import Gathered, Means
from ..engine.rows import samples_of
from ..model.decoder import Decoder
from ..reader.reader import Reader
from ..reader.shams import normed
from ..run.errors import InputError
from ..run.seeds import keyed_int, keyed_rng
from ..steps.virtual_step import virtual_steps
from . import measures
from .baselines import lens, nearest, probe
from .options import margins
from .scoring import SAID, SCORES
from .section import Evaluation
from .statistics import GAP, estimates

OPTIONS = 5
SEEN = "decoupling"
GROUPS = (SEEN, "held_out_target", "held_out_subject", "held_out_template", "held_out_relation", "corrections")
"""The groups of reports whose gradients the references read too."""


def references(
    data: Gathered, train: pl.DataFrame, rows: pl.DataFrame, reports: pl.DataFrame, decoder: Decoder, how: Evaluation
) -> dict[str, Any]:
    """What can be read without the model's reports, of the very gradients that the reports are about.

    `ceiling`: a linear probe taught the known corrections of `train`; `floor`: the lens; `retrieval`: the correction of
    the nearest training gradient. Each has its scores on the gradients of the decoupling group and, one level below by
    the group's name, on those of every other group with reports; see `against_reports`.

    Args:
        data: all gradients.
        train, rows: rows of `data` whose premise holds, those that references are taught and all.
        reports: those of the real gradients in front of hosts, whose prompt_ids are among `rows`.
        decoder: the model.
        how: bootstrap and seed.
    """
    found = measures.groups(reports)
    groups = {name: found[name] for name in GROUPS if len(found[name])}
    asked = rows.filter(pl.col("prompt_id").is_in(set().union(*(part["prompt_id"] for part in groups.values()))))
    known, seen = train["row"].to_numpy(), data.gradient[asked["row"].to_numpy()]
    corrections = train.select("domain", moved_to="target", moved_from="answer")
    said = {
        "ceiling": probe(data.gradient, known, corrections, seen, how.seed),
        "floor": lens(decoder, seen, dict(data.rows.select("target", "domain").iter_rows())),
        "retrieval": corrections[nearest(data.gradient, known, seen)],
    }
    scores = {}
    for name, words in said.items():
        marks = marked(asked, words)
        by_group = {group: against_reports(marks, part, how) for group, part in groups.items()}
        scores[name] = by_group.pop(SEEN, {}) | by_group
    return scores


def marked(cases: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """What is said of each case (columns domain, moved_to, moved_from), marked right or wrong as a report would be."""
    return cases.select(
        "prompt_id",
        "target",
        domain_right=said["domain"] == cases["domain"],
        target_right=said["moved_to"] == cases["target"],
        answer_right=said["moved_from"] == cases["answer"],
    )


def against_reports(marks: pl.DataFrame, reports: pl.DataFrame, how: Evaluation) -> dict[str, Any]:
    """The scores of the marks whose gradients the reports are about, and how much better the reports do on them.

    The `difference` of a score is reports minus reference, for domain, target and answer. A gradient counts once: its
    reports over hosts and projector seeds are averaged first (one that says nothing is wrong), then its mark is
    subtracted. The interval is a bootstrap over target entities of these differences; one that includes zero is no
    effect.
    """
    means = reports.group_by("prompt_id").agg(pl.col(SCORES[name]).mean().alias(name) for name in SAID)
    pairs = marks.join(means, on="prompt_id", how="inner", maintain_order="left")
    right = {name: pairs[SCORES[name]].to_numpy() for name in SAID}
    gaps = {name: pairs[name].to_numpy() - right[name] for name in SAID}
    sampled = pairs["target"].to_list(), how.bootstrap, how.seed
    scores, differences = estimates(right, *sampled), estimates(gaps, *sampled, GAP)
    found = {name: replace(one, difference=differences[name]) for name, one in scores.items()}
    return {"reports": len(pairs)} | found


def choices(data: Gathered, test: pl.DataFrame, seed: int) -> list[list[str]]:
    """For each test row OPTIONS entities to choose from, the target first.

    The others are drawn from the entities of its relation, and where these are too few from all others, but never
    target or answer. Every row has as many: fewer than OPTIONS only where there are too few entities in all.
    """
    entities = data.rows["target"].unique(maintain_order=True).to_list()
    related = {key: set(part["target"]) for key, part in data.rows.group_by("domain", "relation", maintain_order=True)}
    found = []
    for row in test.iter_rows(named=True):
        own = related[row["domain"], row["relation"]]
        others = [entities[index] for index in keyed_rng(seed, "options", row["prompt_id"]).permutation(len(entities))]
        others = sorted(
            (one for one in others if one not in (row["target"], row["answer"])), key=lambda one: one not in own
        )
        found.append([row["target"], *others[: OPTIONS - 1]])
    return found


def unrelated(
    rows: pl.DataFrame, gradients: Float[np.ndarray, "row layer d_model"], seed: int
) -> Float[np.ndarray, "row layer d_model"]:
    """For each row the gradient of one of another domain, by hash of its prompt_id, at the norms of its own.

    Raises:
        InputError: all rows are of one domain.
    """
    domains = rows["domain"].to_numpy()
    others = {name: np.flatnonzero(domains != name) for name in np.unique(domains)}
    if len(others) < 2:
        raise InputError(
            "params.yaml: domains: found one domain with test gradients, wanted at least 2 to hold one against; add one"
        )
    pairs = rows.select("prompt_id", "domain").iter_rows()
    taken = [others[name][keyed_int(seed, "unrelated", row) % len(others[name])] for row, name in pairs]
    return normed(gradients[taken], gradients)


def option_scores(
    data: Gathered, test: pl.DataFrame, readers: Sequence[Reader], settings: Evaluation
) -> dict[str, Any]:
    """Five targets to choose from, the right one and four others (`choices`), by log-probability of the report.

    How much more the gradient than an unrelated one of the same norm at each layer, of another domain, makes the model
    write the report with an option: see `margins`. `accuracy`: in how many the right option gains most (chance
    0.2). `margin`: its gain minus the mean gain of the others, nats a report. Both are means over test gradients and
    the projector's seeds, intervals by bootstrap over target entities, whose seeds stay together.
    """
    named = choices(data, test, settings.seed)
    options = [
        [grammar.report(domain, one, answer, "strong") for one in row]
        for row, (domain, answer) in zip(named, test.select("domain", "answer").iter_rows(), strict=True)
    ]
    gradients = data.gradient[test["row"].to_numpy()]
    vectors = torch.tensor(gradients), torch.tensor(unrelated(test, gradients, settings.seed))
    hosts = [None] * len(options)
    gains = np.concatenate([margins(reader, hosts, options, *vectors).cpu().numpy() for reader in readers])
    gap = (gains[:, 0] - gains[:, 1:].mean(1)).astype(np.float64)
    how = test["target"].to_list() * len(readers), settings.bootstrap, settings.seed
    accuracy = estimates({"accuracy": gains.argmax(1) == 0}, *how)["accuracy"]
    chosen = {"accuracy": replace(accuracy, chance=1 / len(options[0]))}
    return chosen | estimates({"margin": gap}, *how, bounds=None)


def steering_success(
    data: Gathered, train: pl.DataFrame, test: pl.DataFrame, decoder: Decoder, settings: Evaluation
) -> dict[str, Any]:
    """Does a steering vector do what the update direction does, and the other way round?

    For each step size: the share of test rows whose most likely next token becomes the target's first, when the model
    is moved along the update direction, and when it's moved along the steering vector from answer to target (difference
    of mean training activations). `cosine`: the mean cosine between the two. Intervals by bootstrap over target
    entities. `rows`: those with training prompts of both their entities; without any nothing else is said.
    """
    layer = data.layers[:1]
    wanted = {*test["target"], *test["answer"]}
    means = {name: mean[:1] for name, mean in Means.of(data.activation, train, wanted).by_name.items()}
    kept = test.filter(pl.col("target").is_in(list(means)) & pl.col("answer").is_in(list(means)))
    found: dict[str, Any] = {"rows": len(kept)}
    if kept.is_empty():
        return found
    steering = np.stack(
        [means[target] - means[answer] for target, answer in kept.select("target", "answer").iter_rows()]
    )
    update = -data.gradient[kept["row"].to_numpy()][:, :1]
    norms = np.linalg.norm(steering, axis=-1) * np.linalg.norm(update, axis=-1)
    cosine = ((steering * update).sum(-1) / norms)[:, 0].astype(np.float64)
    how = kept["target"].to_list(), settings.bootstrap, settings.seed
    found |= estimates({"cosine": cosine}, *how, bounds=(-1.0, 1.0))
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
        found |= estimates(first, *how)
    return found
