"""Trains a projector with other keys of section `projector`, and scores its reports and two-hop questions.

A stage of stages/sweeps/dvc.yaml: `make sweep` runs one for each rung of the ladder in stages/sweeps/experiments.yaml.
Reads data/model/ and, of all domains, data/facts, data/prompts, data/gradients, data/virtual_step and data/labels.
Writes data/sweep/experiment/NAME.json: the number of trained parameters, the scores of reports in front of a host of
another domain, those of what reads the same gradients without the model (nearest names, lens, probe), by group as in
metrics.json, and `two_hop` and `two_hop_freed`, the evaluation's scores of the reader's own knowledge. Params: domains,
model, gradients, projector, evaluation. A GPU is used if there is one; the pocket model takes a minute on two cores,
some where a map of the subject's place is trained. Resumes in training.

JSON holds keys of section projector. All layers of gradients.layers are read, but by `raw`, which has those of
params.yaml.

With --left-out NAME is a domain: the projector of params.yaml (a linear map of all layers, where that is `raw`, which
nothing trains) is trained on all others, and data/sweep/leave_one_out/NAME.json holds the scores of that domain's test
gradients. `make leave-one-out` runs it for each domain.

  python -m stages.tools.experiment narrow '{"architecture": "mlp", "width": 8}'
  python -m stages.tools.experiment geography --left-out
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
from ..core.evaluate.asking import written
from ..core.evaluate.cases import Questions, with_premise
from ..core.evaluate.estimate import to_json
from ..core.evaluate.interview import Interview
from ..core.evaluate.scores import summary
from ..core.evaluate.section import Evaluation
from ..core.model.opening import open_model
from ..core.model.section import POCKET, Model
from ..core.reader.reader import Reader
from ..core.reader.section import Projector
from ..core.reader.training import card_for, lessons_of
from ..core.run.files import write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.scratch import Scratch
from ..core.run.stage import parser, run
from ..projector import teach

FOLDER, LEFT_OUT = Path("data/sweep/experiment"), Path("data/sweep/leave_one_out")
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
    return {**changes} if changes["architecture"] == RAW else {"layers": list(layers), **changes}


def trained(
    domains: Sequence[str], usual: Projector, changes: dict[str, Any], scratch: Scratch
) -> tuple[Reader, Gathered]:
    """A reader of the first seed, and the gradients that it reads; `changes`: keys of section projector that differ.

    It is trained on the rows outside of `held_out_domains`. Rows whose label names one of these domains by mistake are
    left out too: no report says their words.
    """
    settings = Projector.model_validate({**usual.model_dump(), "seeds": usual.seeds[:1], **changes})
    data = gather(domains, settings.layers, places=settings.places)
    decoder, model = open_model()
    out = pl.any_horizontal(pl.col("domain", "label_domain").is_in(settings.held_out_domains)).fill_null(False)
    lessons = lessons_of(decoder, model, replace(data, rows=data.rows.filter(~out)), settings)
    reader = Reader(decoder, card_for(decoder, model, lessons, settings), settings.seeds[0])
    teach(reader, lessons, settings, scratch.folder)
    scratch.clear()
    return reader, data.corrections()


def questions_of(data: Gathered, domains: Sequence[str], how: Evaluation) -> Questions:
    """Which gradients can be asked about, and in front of which hosts, as in the evaluation."""
    return Questions(data.rows, with_premise(data.rows, continuations(domains)), domains, how)


def left_out(domain: str, params: Sections) -> dict[str, Any]:
    """The scores of `domain`'s test gradients, in front of hosts of other domains, by a projector of the others.

    Where the architecture is raw, that is a linear map of all layers.
    """
    raw = params.projector.architecture == RAW
    changes = rung({"architecture": LINEAR}, params.gradients.layers) if raw else {}
    changes["held_out_domains"] = [domain]
    reader, data = trained(params.domains, params.projector, changes, Scratch("leave_one_out", domain))
    questions = questions_of(data, params.domains, params.evaluation)
    cases = questions.foreign_host(questions.grid.filter(domain=domain))
    slots = reader.read(torch.from_numpy(data.gradient[cases["row"].to_numpy()]))
    return summary(written(reader, cases, (slots, None), "real", params.evaluation.report_tokens))


def main() -> None:
    """Trains and scores one experiment."""
    line = parser(__doc__, "tools.experiment")
    line.add_argument("name", metavar="NAME", help="of the result")
    how = line.add_mutually_exclusive_group(required=True)
    how.add_argument("changes", metavar="JSON", nargs="?", type=json.loads, help="keys of section projector")
    how.add_argument("--left-out", action="store_true", help="train without the domain NAME, and score its gradients")
    options, params = line.parse_args(), read_sections(Sections)
    if options.left_out:
        scores = left_out(options.name, params)
        write_json(LEFT_OUT / f"{options.name}.json", to_json(scores))
        print(f"{options.name}, left out: target {scores['target_accuracy'].value:.3f}")
        return
    changes = rung(options.changes, params.gradients.layers)
    scratch = Scratch("experiment", options.name, json.dumps(options.changes))
    reader, data = trained(params.domains, params.projector, changes, scratch)
    questions = questions_of(data, params.domains, params.evaluation)
    world = World.of([read_domain(name) for name in params.domains])
    asked = params.model.pocket.asked if params.model.source == POCKET else []
    interview = Interview.of(questions, world, {}, asked)
    scores = interview.scores(reader, data, interview.slots(reader, data), questions)
    hops = scores.pop("knowledge")
    scores |= {"two_hop": hops["raw"], "two_hop_freed": hops["freed"]}
    parameters = sum(value.numel() for value in reader.trained.parameters())
    write_json(FOLDER / f"{options.name}.json", {"parameters": parameters, **to_json(scores)})
    target = scores["decoupling"]["target_accuracy"].value
    print(f"{options.name}: {parameters} trained parameters, target {target:.3f}")


if __name__ == "__main__":
    run(main)
