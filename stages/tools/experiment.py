"""Trains a projector with other keys of section `projector`, and scores its reports as the evaluation does.

A stage of stages/sweeps/dvc.yaml: `make sweep` runs one for each rung of the ladder in stages/sweeps/experiments.yaml.
Reads data/model/ and, of all domains, data/facts, data/prompts, data/gradients, data/virtual_step and data/labels.
Writes data/sweep/experiment/NAME.json: the number of trained parameters, and of the evaluation's scores the groups
`decoupling` and `held_out_target` and those of two-hop questions. Params: domains, model, gradients, projector,
evaluation. A GPU is used if there is one; the pocket model takes a minute on two cores. Resumes in training.

JSON holds keys of section projector, and `freed`: whether two-hop questions are asked of what is felt without its part
along the name that the reader's own report moves away from. All layers of gradients.layers are read, but by `raw`,
which has the last of its own.

  python -m stages.tools.experiment narrow '{"architecture": "mlp", "width": 8}'
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from ..core.data.facts import World, read_domain
from ..core.data.gathering import Gathered, continuations, gather
from ..core.engine.section import Gradients
from ..core.evaluate.answers import by_group
from ..core.evaluate.asking import written
from ..core.evaluate.cases import COUNTERFACTUAL, NO_HOST, SEEN, picked, with_hosts, with_premise
from ..core.evaluate.estimate import Estimate, to_json
from ..core.evaluate.knowledge import about, answered, with_own
from ..core.evaluate.metrics import group_scores
from ..core.evaluate.section import Evaluation
from ..core.model.opening import open_model
from ..core.model.section import Model
from ..core.reader.injection import Slots
from ..core.reader.reader import Reader
from ..core.reader.section import Projector
from ..core.run.files import write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.scratch import Scratch
from ..core.run.stage import parser, run
from ..projector import card_for, teach

FOLDER = Path("data/sweep/experiment")
RAW, LINEAR = "raw", "linear"


class Sections(Section):
    """What the stages of stages/sweeps that train a projector read of params.yaml."""

    domains: Domains
    model: Model
    gradients: Gradients
    projector: Projector
    evaluation: Evaluation


def rung(changes: dict[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """All that an experiment sets: a projector that has something to train reads all layers."""
    return changes if changes["architecture"] == RAW else {"layers": list(layers), **changes}


def trainable(projector: Projector, layers: Sequence[int]) -> Projector:
    """Section `projector` with its first seed; where it is raw, a linear map of all layers in its place."""
    changes: dict[str, Any] = {"seeds": projector.seeds[:1]}
    if projector.architecture == RAW:
        changes |= rung({"architecture": LINEAR}, layers)
    return projector.model_copy(update=changes)


def gathered(domains: Sequence[str], settings: Projector) -> Gathered:
    """All rows of the domains, with the gradients that such a projector reads."""
    return gather(domains, settings.layers, places=settings.places)


def trained(data: Gathered, settings: Projector, scratch: Scratch) -> Reader:
    """A reader of the first seed, trained on the rows of `data` outside of `settings.held_out_domains`."""
    decoder, model = open_model()
    lessons = replace(data, rows=data.rows.filter(~pl.col("domain").is_in(settings.held_out_domains)))
    reader = Reader.new(decoder, card_for(decoder, model, lessons, settings), settings.seeds[0])
    teach(reader, lessons, settings, scratch.folder)
    scratch.clear()
    return reader


def askable(rows: pl.DataFrame, domains: Sequence[str], held_out: str = "none") -> pl.DataFrame:
    """The counterfactual test rows of these domains whose premise holds, with this held out."""
    own = rows.filter(pl.col("domain").is_in(domains) & COUNTERFACTUAL)
    return with_premise(own, continuations(domains)).filter(
        (pl.col("split") == "test") & (pl.col("held_out") == held_out)
    )


@torch.no_grad()
def slots_of(reader: Reader, data: Gathered, rows: pl.Series) -> Slots:
    """What the gradients of these rows put into the slots."""
    return reader.read(torch.from_numpy(data.gradient[rows.to_numpy()]))


def reported(
    reader: Reader, asked: pl.DataFrame, data: Gathered, how: Evaluation, hosts: Sequence[str] | None = None
) -> pl.DataFrame:
    """Scored reports (REPORTS) of these rows' gradients, each in front of hosts of other domains.

    `hosts`: the domains of the hosts, one host each; None: one host of one other domain.
    """
    pool = data.rows.filter((pl.col("split") == "test") & SEEN & COUNTERFACTUAL)
    cases = with_hosts(asked, pool, hosts, how.seed)
    cases = cases.filter((pl.col("host_domain") != pl.col("gradient_domain")) & (pl.col("host_domain") != NO_HOST))
    return written(reader, cases, slots_of(reader, data, cases["row"]), "real", how.report_tokens)


def two_hop(
    reader: Reader, reports: pl.DataFrame, data: Gathered, params: Sections, freed: bool
) -> dict[str, Estimate]:
    """The share of questions about the felt target that the reader answers as it does of the name itself.

    Of relations that no slot was asked about, one set of questions a gradient of `reports`; see knowledge.py. `freed`:
    without the part along the name that the first report of a gradient moves away from. Empty where there is nothing to
    ask.
    """
    world = World.of([read_domain(name) for name in params.domains])
    rows = data.rows.select("prompt_id", "row")
    cases = (
        reports.filter(pl.col("target").is_in(world.bridges))
        .unique("prompt_id", maintain_order=True)
        .join(rows, on="prompt_id", maintain_order="left")
    )
    if cases.is_empty():
        return {}
    slots, tokens = slots_of(reader, data, cases["row"]), params.evaluation.report_tokens
    if freed:
        slots = reader.freed(slots, cases["moved_to"], cases["moved_from"])
    known = params.model.pocket.asked if params.model.source == "pocket" else ()
    asked = about(world, cases, known).filter(pl.col("form") == "foreign")
    if asked.is_empty():
        return {}
    said = answered(reader, with_own(reader, asked, tokens), "freed" if freed else "raw", slots, tokens)
    return by_group(said, params.evaluation)


def main() -> None:
    """Trains and scores one experiment."""
    line = parser(__doc__, "tools.experiment")
    line.add_argument("name", metavar="NAME", help="of the result")
    line.add_argument("changes", metavar="JSON", type=json.loads, help="keys of section projector, and freed")
    options = line.parse_args()
    params = read_sections(Sections)
    changes, how = rung(options.changes, params.gradients.layers), params.evaluation
    freed = changes.pop("freed", False)
    usual = params.projector.model_dump()
    settings = Projector.model_validate(usual | {"seeds": usual["seeds"][:1]} | changes)
    data = gathered(params.domains, settings)
    reader = trained(data, settings, Scratch("experiment", options.name, json.dumps(options.changes)))
    grid = picked(askable(data.rows, params.domains), how.gradients, how.seed, "grid")
    held = picked(askable(data.rows, params.domains, "target"), how.gradients, how.seed, "target")
    reports = reported(reader, grid, data, how, params.domains)
    if len(held):
        reports = pl.concat([reports, reported(reader, held, data, how)])
    scores = group_scores(reports, how) | {"two_hop": two_hop(reader, reports, data, params, freed)}
    parameters = sum(value.numel() for value in reader.trained.parameters())
    write_json(FOLDER / f"{options.name}.json", {"parameters": parameters, **to_json(scores)})
    print(
        f"{options.name}: {parameters} trained parameters, target {scores['decoupling']['target_accuracy'].value:.3f}"
    )


if __name__ == "__main__":
    run(main)
