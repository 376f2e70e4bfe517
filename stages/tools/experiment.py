"""Trains a projector with other keys of section `projector`, and scores its reports as the evaluation does.

A stage of stages/sweeps/dvc.yaml: `make sweep` runs one for each experiment. Reads data/model/ and, of all domains,
data/prompts, data/gradients, data/virtual_step and data/labels. Writes data/sweep/experiment/NAME.json: the groups
`decoupling` and `held_out_target` of the evaluation's metrics. Params: domains, projector, evaluation. A GPU is used if
there is one; the pocket model takes a minute on two cores. Resumes in training.

  python -m stages.tools.experiment narrow '{"width": 8, "seeds": [0]}'
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from ..core.data.gathering import Gathered, continuations, gather
from ..core.evaluate.asking import written
from ..core.evaluate.cases import COUNTERFACTUAL, NO_HOST, SEEN, picked, with_hosts, with_premise
from ..core.evaluate.conditions import gated
from ..core.evaluate.estimate import to_json
from ..core.evaluate.metrics import group_scores
from ..core.evaluate.section import Evaluation
from ..core.model.opening import open_model
from ..core.reader.reader import Reader
from ..core.reader.section import Projector
from ..core.run.files import write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.scratch import Scratch
from ..core.run.stage import parser, run
from ..projector import card_for, set_gate, teach

FOLDER = Path("data/sweep/experiment")


class Sections(Section):
    """What the stages of stages/sweeps that train a projector read of params.yaml."""

    domains: Domains
    projector: Projector
    evaluation: Evaluation


def trained(data: Gathered, settings: Projector, scratch: Scratch) -> list[Reader]:
    """A reader of each seed of `settings`, trained on the rows of `data` outside of `settings.held_out_domains`."""
    decoder, model = open_model()
    lessons = replace(data, rows=data.rows.filter(~pl.col("domain").is_in(settings.held_out_domains)))
    card = card_for(decoder, model, lessons, settings)
    readers = [Reader.new(decoder, card, seed) for seed in settings.seeds]
    for reader in readers:
        teach(reader, lessons, settings, scratch.folder)
        set_gate(reader, lessons, settings)
    scratch.clear()
    return readers


def askable(rows: pl.DataFrame, domains: Sequence[str], held_out: str = "none") -> pl.DataFrame:
    """The counterfactual test rows of these domains whose premise holds, with this held out."""
    own = rows.filter(pl.col("domain").is_in(domains) & COUNTERFACTUAL)
    return with_premise(own, continuations(domains)).filter(
        (pl.col("split") == "test") & (pl.col("held_out") == held_out)
    )


def reported(
    reader: Reader, asked: pl.DataFrame, data: Gathered, how: Evaluation, hosts: Sequence[str] | None = None
) -> pl.DataFrame:
    """Scored reports (REPORTS) of these rows' gradients, each in front of hosts of other domains.

    `hosts`: the domains of the hosts, one host each; None: one host of one other domain.
    """
    pool = data.rows.filter((pl.col("split") == "test") & SEEN & COUNTERFACTUAL)
    cases = with_hosts(asked, pool, hosts, how.seed)
    cases = cases.filter((pl.col("host_domain") != pl.col("gradient_domain")) & (pl.col("host_domain") != NO_HOST))
    with torch.no_grad():
        filled = gated(reader, data.gradient[cases["row"].to_numpy()])
    return written(reader, cases, filled, "real", how.report_tokens)


def main() -> None:
    """Trains and scores one experiment."""
    line = parser(__doc__, "tools.experiment")
    line.add_argument("name", metavar="NAME", help="of the result")
    line.add_argument("changes", metavar="JSON", type=json.loads, help="keys of section projector")
    options = line.parse_args()
    params = read_sections(Sections)
    settings, how = Projector.model_validate(params.projector.model_dump() | options.changes), params.evaluation
    data = gather(params.domains, settings.layers)
    grid = picked(askable(data.rows, params.domains), how.gradients, how.seed, "grid")
    held = picked(askable(data.rows, params.domains, "target"), how.gradients, how.seed, "target")
    reports = []
    for reader in trained(data, settings, Scratch("experiment", options.name, json.dumps(options.changes))):
        reports.append(reported(reader, grid, data, how, params.domains))
        if len(held):
            reports.append(reported(reader, held, data, how))
    scores = group_scores(pl.concat(reports), how)
    write_json(FOLDER / f"{options.name}.json", to_json(scores))
    print(f"{options.name}: domain {scores['decoupling']['domain_accuracy'].value:.3f}")


if __name__ == "__main__":
    run(main)
