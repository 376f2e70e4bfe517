"""Trains a projector on another teacher's labels, and scores its reports by the known corrections.

Does a report say what the gradient does, or what its teacher said? A stage of stages/sweeps/dvc.yaml:
`make other-teacher` runs it. Where params.yaml has the architecture raw, which no teacher teaches, a linear map of all
layers is trained. Reads data/model/ and, of all domains, data/facts, data/prompts, data/gradients, data/virtual_step,
data/labels and data/labels/second. Writes data/sweep/other_teacher/scores.json. Params: domains, gradients,
labels, projector, evaluation. A GPU is used if there is one; the pocket model takes a minute or two on two cores.
Resumes in training.

The other teacher: with labels.backend local, the same reader of shifts, shown the smallest step size alone; with any
other backend labels.second, through the labels that the stage stored, so that nothing is asked or paid.

  python -m stages.tools.other_teacher
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from ..core.data.gathering import Gathered, labelled, taught
from ..core.data.tables import LABELS, read_table
from ..core.engine.section import Gradients
from ..core.evaluate.cases import COUNTERFACTUAL, SEEN
from ..core.evaluate.estimate import to_json
from ..core.evaluate.metrics import correction_or_label
from ..core.evaluate.scores import summary
from ..core.evaluate.section import Evaluation
from ..core.labels.agreement import agreement_with_corrections
from ..core.labels.section import Labels
from ..core.reader.reader import Reader
from ..core.reader.section import Projector
from ..core.run.errors import InputError
from ..core.run.files import write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.scratch import Scratch
from ..core.run.stage import parse, run
from ..labellers import local
from ..labels import LABELLED, job_of
from ..labels import Sections as OfLabels
from .experiment import gathered, questions_of, reported, trainable, trained

SCORES = Path("data/sweep/other_teacher/scores.json")


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    gradients: Gradients
    labels: Labels
    projector: Projector
    evaluation: Evaluation


def other_labels(params: Sections) -> tuple[str, pl.DataFrame]:
    """The other teacher in words, and its labels (LABELS) of all domains.

    Raises:
        InputError: there is no other teacher: one step size only, or a backend that stored no second teacher's labels.
    """
    if params.labels.backend == local.TEACHER:
        return "the local teacher on the smallest step size alone", pl.concat(map(smallest_step, params.domains))
    paths = [LABELLED / "second" / f"{name}.parquet" for name in params.domains]
    found = pl.concat(read_table(path, LABELS) for path in paths)
    if found.is_empty():
        raise InputError(
            f"{paths[0].parent}: found no label of any domain by a second teacher (labels.backend: "
            f"{params.labels.backend}), wanted some to train on; set labels.second in params.yaml and run dvc repro"
        )
    return " and ".join(found["teacher"].unique(maintain_order=True)), found


def smallest_step(domain: str) -> pl.DataFrame:
    """The local teacher's labels of a domain's shifts at the smallest step size.

    Raises:
        InputError: there is only one step size.
    """
    job = job_of(domain, read_sections(OfLabels))
    sizes = job.shifts["step_size"].unique().sort()
    if len(sizes) < 2:
        raise InputError(
            f"params.yaml: virtual_step.step_sizes: found {sizes.to_list()}, wanted at least two: the other teacher is "
            "the local one shown the smallest alone, and that is all that the first one sees; add a larger one"
        )
    return local.label(replace(job, shifts=job.shifts.filter(pl.col("step_size") == sizes[0]))).labels


def scores_of(reader: Reader, data: Gathered, params: Sections) -> dict[str, dict[str, Any]]:
    """The scores of test gradients in front of foreign hosts, by what the labels of `data` say of them.

    All of the grid; those whose label names another target than the known correction, by the correction, and by that
    label (the target alone); those whose label names no target. A gradient without a label is in the grid alone. What
    no gradient is in is left out.
    """
    label, questions = pl.col("label_moved_to"), questions_of(data, params.domains, params.evaluation)
    seen = ~pl.col("domain").is_in(params.projector.held_out_domains)

    def asked(rows: pl.DataFrame) -> pl.DataFrame:
        return reported(reader, questions.foreign_host(rows), data, params.evaluation.report_tokens)

    grid, test = questions.grid.filter(seen), questions.test.filter(seen & SEEN & COUNTERFACTUAL)
    found = {f"Grid, {len(grid)} gradients": summary(asked(grid))}
    if len(wrong := test.filter((label != "") & (label != pl.col("target")))):
        reports, name = asked(wrong), f"Label wrong, {len(wrong)} gradients"
        said = correction_or_label(reports, data.rows.select("prompt_id", "label_moved_to"))
        found[f"{name}: says the correction"] = summary(reports)
        found[f"{name}: says its label"] = {"target_accuracy": said["says_label"]}
    if len(none := test.filter(label == "")):
        found[f"No target in the label, {len(none)} gradients"] = summary(asked(none))
    return found


def main() -> None:
    """Trains on the other teacher's labels and scores by the known corrections."""
    parse(__doc__, "tools.other_teacher", by_domain=False)
    params = read_sections(Sections)
    settings = trainable(params.projector, params.gradients.layers)
    teacher, labels = other_labels(params)
    data = gathered(params.domains, settings)
    data = replace(data, rows=labelled(data.rows, labels))
    reader = trained(data, settings, Scratch("other_teacher"))
    found = scores_of(reader, data, params)
    learnt = taught(data.rows.filter(~pl.col("domain").is_in(settings.held_out_domains)), "train")
    right = agreement_with_corrections(labels.join(learnt, on="prompt_id", how="semi"), data.rows)["target_accuracy"]
    group = f"Taught by {teacher}: {100 * right:.1f} % of {len(learnt)} training labels name the right target"
    write_json(SCORES, {"group": group, "scores": to_json(found)})
    for name, scores in found.items():
        print(f"{name}: {scores['target_accuracy'].value:.3f}")


if __name__ == "__main__":
    run(main)
