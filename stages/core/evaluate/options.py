"""Options: five reports to choose from, by log-probability, without generating anything."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from ..data import grammar
from ..data.gathering import Gathered
from ..reader.reader import Reader
from ..reader.reports import answer_losses, prompts_of
from ..reader.shams import normed
from ..run.errors import InputError
from ..run.seeds import keyed_int, keyed_rng
from .estimate import Estimate
from .section import Evaluation
from .statistics import estimates

OPTIONS = 5


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
) -> dict[str, Estimate]:
    """Five targets to choose from, the right one and four others (`choices`), by log-probability of the report.

    How much more the gradient than an unrelated one of the same norm at each layer, of another domain, makes the model
    write the report with an option: see `margins`. `accuracy`: in how many the right option gains most (chance
    0.2). `margin`: its gain minus the mean gain of the others, nats a report. Both are means over test gradients and
    the projector's seeds, intervals over target entities and seeds.
    """
    named = choices(data, test, settings.seed)
    options = [
        [grammar.report(domain, one, answer) for one in row]
        for row, (domain, answer) in zip(named, test.select("domain", "answer").iter_rows(), strict=True)
    ]
    gradients = data.gradient[test["row"].to_numpy()]
    vectors = torch.tensor(gradients), torch.tensor(unrelated(test, gradients, settings.seed))
    gains = np.concatenate([margins(reader, options, *vectors).cpu().numpy() for reader in readers])
    gap = (gains[:, 0] - gains[:, 1:].mean(1)).astype(np.float64)
    clusters = test["target"].to_list() * len(readers)
    seeds = np.repeat(np.arange(len(readers)), len(test)).tolist()
    accuracy = estimates({"accuracy": gains.argmax(1) == 0}, clusters, seeds=seeds)["accuracy"]
    chosen = {"accuracy": replace(accuracy, chance=1 / len(options[0]))}
    return chosen | estimates({"margin": gap}, clusters, bounds=None, seeds=seeds)


@torch.no_grad()
def report_logprob(
    reader: Reader, reports: Sequence[str], gradients: Float[torch.Tensor, "row layer d_model"]
) -> Float[torch.Tensor, " row"]:
    """log p(report | slots, question) of each row, nats, without a host, summed over the report's tokens."""
    tails = [reader.decoder.continuation(report) for report in reports]
    found = []
    for start in range(0, len(tails), 256):
        rows = slice(start, start + 256)
        slots = reader.read(gradients[rows])
        prompts = prompts_of(reader, [None] * len(slots), reader.card.question, slots)
        losses, row = answer_losses(reader, prompts, tails[rows], slots)
        found.append(-losses.new_zeros(len(tails[rows])).index_add(0, row, losses))
    return torch.cat(found)


def margins(
    reader: Reader,
    options: Sequence[Sequence[str]],
    gradients: Float[torch.Tensor, "row layer d_model"],
    unrelated: Float[torch.Tensor, "row layer d_model"],
) -> Float[torch.Tensor, "row option"]:
    """How much more the gradient than an unrelated one makes the model say each option, nats.

    What steering brings an option is log p(report with it | vector) minus the same with a sham of the vector's norm.
    From what the gradient brings, what an unrelated gradient brings (to the same report) is subtracted: a liking for
    the option, or for reports at all, that any gradient causes. Both have to have the same norm at each layer; then
    the same sham stands in both, cancels, and isn't computed. Left is log p with the gradient minus log p with the
    unrelated one. Each option is scored by itself, so that their order can't matter.
    """
    count = len(options[0])
    flat = [report for row in options for report in row]

    def score(vectors: Float[torch.Tensor, "row layer d_model"]) -> Float[torch.Tensor, "row option"]:
        return report_logprob(reader, flat, vectors.repeat_interleave(count, 0)).view(-1, count)

    return score(gradients) - score(unrelated)
