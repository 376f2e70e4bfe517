"""Trains a projector on all domains but one, and scores its reports of that one's gradients.

A stage of stages/sweeps/dvc.yaml: `make leave-one-out` runs it for every domain. Where params.yaml has the architecture
raw, which nothing trains, a linear map of all layers is trained. Reads data/model/ and, of all domains, data/prompts,
data/gradients, data/virtual_step and data/labels. Writes data/sweep/leave_one_out/DOMAIN.json. Params: domains, model,
gradients, projector, evaluation. A GPU is used if there is one; the pocket model takes a minute on two cores.

  python -m stages.tools.leave_one_out geography
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from ..core.evaluate.cases import picked
from ..core.evaluate.estimate import to_json
from ..core.evaluate.scores import summary
from ..core.run.files import write_json
from ..core.run.params import read_sections
from ..core.run.scratch import Scratch
from ..core.run.stage import parse, run
from .experiment import Sections, askable, gathered, reported, trainable, trained

FOLDER = Path("data/sweep/leave_one_out")


def left_out(domain: str, params: Sections) -> dict[str, Any]:
    """The scores of `domain`'s test gradients, in front of hosts of other domains, by a projector of the others.

    Training leaves out the gradients of the others whose label names `domain` by mistake: no report says its word.
    """
    how, usual = params.evaluation, trainable(params.projector, params.gradients.layers)
    settings = usual.model_copy(update={"held_out_domains": [domain]})
    data = gathered(params.domains, settings)
    lessons = replace(data, rows=data.rows.filter(pl.col("label_domain").ne_missing(domain)))
    reader = trained(lessons, settings, Scratch("leave_one_out", domain))
    test = picked(askable(data.rows, [domain]), how.gradients, how.seed, "grid")
    return summary(reported(reader, test, data, how))


def main() -> None:
    """Trains without one domain and writes its scores."""
    domain = parse(__doc__, "tools.leave_one_out", by_domain=True)
    scores = left_out(domain, read_sections(Sections))
    write_json(FOLDER / f"{domain}.json", to_json(scores))
    print(
        f"{domain}: domain {scores['domain_accuracy'].value:.3f}, target {scores['target_accuracy'].value:.3f}, "
        f"answer {scores['answer_accuracy'].value:.3f}, host intrusion {scores['host_intrusion'].value:.3f}"
    )


if __name__ == "__main__":
    run(main)
