"""Trains a reader on the teacher's own sentences, and scores what it then writes of gradients in words of its own.

A stage of stages/sweeps/dvc.yaml: `make free-words` runs it. Reads data/model/ and, of all domains, data/prompts,
data/gradients, data/virtual_step and data/labels. Writes metrics.json and reports.parquet to data/free_words/: the
evaluation's columns, marked by the names that stand in a report, and `retrieved`; the judge can read them. Params:
domains, model, gradients, projector, evaluation. A GPU is used if there is one; ten minutes of a core with the pocket
model. Resumes in training.

The reader is that of params.yaml with LoRA on the verbaliser. It writes of test gradients in front of hosts of other
domains. Nothing is parsed: a report is held against its gradient by the names that stand in it, and by retrieval: given
which of 64 test gradients does the reader find the text likeliest? Beside it stand the report of no pressure, another
row's, the lens's names in words, and the teacher's summary in forms of the training and in held-out forms.

  python -m stages.tools.free_words
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int

from ..core.data.gathering import Gathered
from ..core.data.grammar import NO_PRESSURE
from ..core.data.summaries import FORMS, HELD_OUT, summarise
from ..core.data.tables import write_table
from ..core.engine.section import Gradients
from ..core.evaluate.baselines import lens
from ..core.evaluate.cases import COUNTERFACTUAL, Questions, deranged, picked
from ..core.evaluate.estimate import to_json
from ..core.evaluate.scores import mean_scores, scored
from ..core.evaluate.section import Evaluation
from ..core.evaluate.statistics import by_target
from ..core.evaluate.table import REPORTS
from ..core.labels.lexicon import holds
from ..core.model.section import Model
from ..core.reader.injection import Slots
from ..core.reader.reader import Reader
from ..core.reader.reports import answer_losses, answers_of, prompts_of
from ..core.reader.section import Projector
from ..core.run.files import write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.scratch import Scratch
from ..core.run.seeds import keyed_int
from ..core.run.stage import parser, progress, run
from .experiment import questions_of, trained

FOLDER = Path("data/free_words")
LORA = {"rank": 16, "alpha": 32, "learning_rate": 0.01}
TRAINED = {"reports": "teacher", "flips": 0.0, "differences": 0.0, "lora": LORA, "steps": 640}
"""Keys of section projector that differ from params.yaml; LoRA and steps were chosen by the loss on validation rows."""
GRADIENTS = 64
"""Among how many a text has to pick its own."""
FREE = REPORTS | {"retrieved": pl.Boolean}


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    model: Model
    gradients: Gradients
    projector: Projector
    evaluation: Evaluation


def texts_on(
    reader: Reader, data: Gathered, cases: pl.DataFrame, slots: Slots, how: Evaluation
) -> Iterator[tuple[str, list[str]]]:
    """By condition a text a case: what the reader writes (`real`), and what stands beside it."""
    real = answers_of(reader, cases["host"].to_list(), reader.card.question, slots, how.report_tokens)
    yield "real", real
    yield "shuffled", [real[at] for at in deranged(cases["prompt_id"], how.seed, "shuffled")]
    yield "empty", [NO_PRESSURE] * len(cases)
    last = data.gradient[cases["row"].to_numpy()][:, len(reader.card.layers) - 1]
    known = lens(reader.decoder, last, dict(data.rows.select("target", "domain").iter_rows()))
    labelled = cases.select("prompt_id").join(data.rows, on="prompt_id", maintain_order="left")
    label = labelled.select(domain="label_domain", moved_to="label_moved_to", moved_from="label_moved_from")
    for name, said, forms in (
        ("lens", known, FORMS[:-HELD_OUT]),
        ("teacher", label, FORMS[:-HELD_OUT]),
        ("teacher_held_out_form", label, FORMS[-HELD_OUT:]),
    ):
        drawn = [forms[keyed_int(how.seed, "form", row) % len(forms)] for row in cases["prompt_id"]]
        rows = said.select("domain", "moved_from", "moved_to").iter_rows()
        yield name, [summarise(domain, away, to, form) for (domain, away, to), form in zip(rows, drawn, strict=True)]


def marked(cases: pl.DataFrame, condition: str, texts: Sequence[str]) -> pl.DataFrame:
    """The texts in the columns of the evaluation's reports; right is a name or domain that stands in the text."""
    rows = scored(cases.with_columns(condition=pl.lit(condition), seed=pl.lit(0), confidence=pl.lit(None)), [*texts])
    sought = {"domain_right": "gradient_domain", "target_right": "target", "answer_right": "answer"}
    marks = {
        mark: pl.Series([holds(text, name) for text, name in zip(texts, rows[column], strict=True)], dtype=pl.Boolean)
        for mark, column in (sought | {"host_intrusion": "host_domain"}).items()
    }
    foreign = rows["host_domain"] != rows["gradient_domain"]
    return rows.with_columns(**marks).with_columns(host_intrusion=pl.col("host_intrusion") & foreign)


def candidates(prompt_ids: Sequence[str], seed: int) -> Int[np.ndarray, "row gradient"]:
    """For each row the numbers of GRADIENTS rows in their order, its own among them, the others drawn by hash."""
    found = []
    for at, own in enumerate(prompt_ids):
        others = [number for number in range(len(prompt_ids)) if number != at]
        others.sort(key=lambda number: keyed_int(seed, "retrieval", own, prompt_ids[number]))
        found.append(sorted([at, *others[: GRADIENTS - 1]]))
    return np.array(found)


@torch.no_grad()
def retrieved(
    reader: Reader, slots: Slots, texts: Sequence[str], among: Int[np.ndarray, "row gradient"]
) -> Bool[np.ndarray, " row"]:
    """Whether the reader, without a host, finds each row's text likeliest given what the row's own gradient fills.

    It is held against the row's candidates `among`; of equally likely ones the first counts, which is any of them.
    """
    found, end = np.zeros(len(texts), bool), min(reader.decoder.eos_ids())
    for row, (text, numbers) in enumerate(zip(texts, among, strict=True)):
        answer, chosen = [*reader.decoder.continuation(text), end], slots[torch.from_numpy(numbers)]
        prompts = prompts_of(reader, [None] * len(numbers), reader.card.question, chosen)
        losses, of = answer_losses(reader, prompts, [answer] * len(numbers), chosen)
        total = losses.new_zeros(len(numbers)).index_add(0, of, losses)
        found[row] = numbers[int(total.argmin())] == row
    return found


def groups_of(questions: Questions) -> dict[str, pl.DataFrame]:
    """Test gradients in front of one host of another domain: nothing held out, and those toward a held-out name."""
    how = questions.settings
    held = questions.test.filter((pl.col("held_out") == "target") & COUNTERFACTUAL)
    rows = {"seen": questions.grid, "held_out_target": picked(held, how.gradients, how.seed, "target")}
    return {name: questions.foreign_host(part) for name, part in rows.items() if len(part)}


def scores_of(reader: Reader, data: Gathered, params: Sections) -> tuple[pl.DataFrame, dict[str, Any]]:
    """All texts, marked (columns FREE), and the scores by group and condition."""
    how, tables, metrics = params.evaluation, [], {}
    for group, cases in groups_of(questions_of(data, params.domains, how)).items():
        among = candidates(cases["prompt_id"].to_list(), how.seed)
        slots = reader.read(torch.from_numpy(data.gradient[cases["row"].to_numpy()]))
        metrics[group] = {"reports": len(cases), "gradients": among.shape[1]}
        with progress(f"free words, {group}", 6) as advance:
            for condition, texts in texts_on(reader, data, cases, slots, how):
                found = pl.Series("retrieved", retrieved(reader, slots, texts, among))
                rows = marked(cases, condition, texts).with_columns(found)
                tables.append(rows)
                metrics[group][condition] = mean_scores(rows, False) | by_target(rows, {"retrieved": found})
                advance(1)
    return pl.concat(tables), metrics


def main() -> None:
    """Trains the reader and scores its reports."""
    parser(__doc__, "tools.free_words").parse_args()
    params = read_sections(Sections)
    reader, data = trained(params.domains, params.projector, TRAINED, Scratch("free_words"))
    table, metrics = scores_of(reader, data, params)
    write_table(FOLDER / "reports.parquet", table, FREE)
    write_json(FOLDER / "metrics.json", to_json(metrics))
    for condition in ("real", "empty", "teacher"):
        found = metrics["seen"][condition]
        named, picks = found["target_accuracy"].value, found["retrieved"].value
        print(f"{condition}: names the target in {named:.3f}, picks its gradient in {picks:.3f}")


if __name__ == "__main__":
    run(main)
