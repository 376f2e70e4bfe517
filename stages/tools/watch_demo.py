"""Shows training being watched: wrong facts are about to be taught, and the reports name them before the weights move.

Fine-tunes the finished pipeline's model on wrong facts of one domain, with another's mixed into every batch; and again
on the same prompts with the right answers, as a control. Before each optimiser step, GradientWatch reads what the batch
is about to teach. Reads params.yaml, data/model/, data/prompts/ and data/projector/. Writes .cache/watch/wrong.parquet
and right.parquet, a row a prompt and step; the model on disk stays as it is. A GPU is used if there is one; with the
pocket model half a minute.

  python -m stages.tools.watch_demo
  python -m stages.tools.watch_demo --taught biology --beside music --steps 12
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer, TrainingArguments

from ..core.data.grammar import parse_report
from ..core.data.tables import PROMPTS, read_table
from ..core.evaluate.cases import SEEN, picked
from ..core.model.decoder import Decoder
from ..core.model.opening import open_model
from ..core.run.errors import InputError
from ..core.run.files import replacing
from ..core.run.params import Domains, Section, read_sections
from ..core.run.stage import parser, run
from .watch import COLUMNS, GradientWatch

FOLDER = Path(".cache/watch")
TAUGHT, BESIDE = 12, 4
"""Rows of a batch from the domain that is taught and from the one mixed in."""
LEARNING_RATE = 1e-3
IGNORE = -100


class Sections(Section):
    """What this tool reads of params.yaml."""

    domains: Domains


def batches(taught: str, beside: str, steps: int) -> pl.DataFrame:
    """The rows of `steps` batches, one after the other: each prompt with its right answer and one wrong one (`target`).

    They are corrections of the test split, which the projector has not been trained on; where a domain has too few, it
    starts over.
    """
    found = []
    for name, count in ((taught, TAUGHT), (beside, BESIDE)):
        table = read_table(Path("data/prompts") / f"{name}.parquet", PROMPTS)
        rows = table.filter(SEEN & (pl.col("split") == "test") & (pl.col("kind") == "counterfactual"))
        rows = picked(rows.unique("prompt", maintain_order=True), count * steps, 0, "watch")
        if rows.is_empty():
            raise InputError(f"data/prompts/{name}.parquet: found no test prompt to teach, wanted some")
        found.append(rows[list(islice(cycle(range(len(rows))), count * steps))])
    wrong, mixed = found
    parts = [(wrong[TAUGHT * step :][:TAUGHT], mixed[BESIDE * step :][:BESIDE]) for step in range(steps)]
    return pl.concat([rows for pair in parts for rows in pair]).select("domain", "prompt", "answer", "target")


def encoded(decoder: Decoder, prompts: Sequence[str], taught: Sequence[str]) -> list[dict[str, list[int]]]:
    """Token ids, and as labels those of what is taught."""
    rows = []
    for prompt, text in zip(prompts, taught, strict=True):
        given, wanted = decoder.tokens(prompt), decoder.continuation(text)
        rows.append({"input_ids": given + wanted, "labels": [IGNORE] * len(given) + wanted})
    return rows


def padded(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Int[Tensor, "row position"]]:
    """One batch, padded on the right."""
    fill = {"input_ids": 0, "labels": IGNORE}
    return {
        name: pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }


def watched(rows: pl.DataFrame, column: str, steps: int) -> pl.DataFrame:
    """Fine-tunes the model on the rows, `column` as what is taught, and returns what the watch recorded, parsed.

    AdamW at LEARNING_RATE, every step watched. Columns: COLUMNS, domain, answer, wrong, and the report's words.
    """
    decoder, _ = open_model()
    watch = GradientWatch(every=1)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=TAUGHT + BESIDE,
            learning_rate=LEARNING_RATE, lr_scheduler_type="constant", train_sampling_strategy="sequential",
            logging_strategy="no", report_to=[], save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            use_cpu=decoder.device.type == "cpu", seed=0,
        )  # fmt: skip
        if arguments.n_gpu > 1:  # on all cards, a batch would hold that many times as many rows
            arguments._n_gpu = 1
        data: Any = encoded(decoder, rows["prompt"].to_list(), rows[column].to_list())
        model: Any = decoder.model.requires_grad_(True).train()
        trainer = Trainer(model, arguments, train_dataset=data, data_collator=padded, callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    table = pl.DataFrame(watch.records, schema=COLUMNS)
    said = [parse_report(text) for text in table["report"]]
    return table.with_columns(
        rows["domain"],
        rows["answer"],
        pl.Series("named_domain", [each.domain for each in said]),
        pl.Series("moved_to", [each.moved_to for each in said]),
        pl.Series("moved_from", [each.moved_from for each in said]),
        wrong=rows["target"],
        taught=rows[column],
    )


def by_step(table: pl.DataFrame) -> pl.DataFrame:
    """Shares of the rows of each step, and medians.

    `says`: the model's likeliest token begins what is taught; `named`, `named_domain`, `named_wrong`: the report moves
    to what is taught, is of the row's domain, moves to the wrong answer; `loss` (nats) and `gradient_norm`: medians.
    """
    return table.group_by("step", maintain_order=True).agg(
        loss=pl.col("loss").median(),
        gradient_norm=pl.col("gradient_norm").median(),
        says=((pl.col("says") != "") & pl.col("taught").str.starts_with(pl.col("says"))).mean(),
        named=(pl.col("moved_to") == pl.col("taught")).mean(),
        named_domain=(pl.col("named_domain") == pl.col("domain")).mean(),
        named_wrong=(pl.col("moved_to") == pl.col("wrong")).mean(),
    )


def main() -> None:
    """Runs both fine-tunings and prints what the reports said before each step."""
    line = parser(__doc__, "tools.watch_demo")
    line.add_argument("--taught", metavar="DOMAIN", help="whose wrong facts are taught; default: the first of params")
    line.add_argument("--beside", metavar="DOMAIN", help="whose wrong facts are mixed in; default: the second")
    line.add_argument("--steps", metavar="N", type=int, default=12, help="optimiser steps; default: 12")
    options = line.parse_args()
    domains = read_sections(Sections).domains
    taught, beside = options.taught or domains[0], options.beside or domains[1]
    for option, name in (("--taught", taught), ("--beside", beside)):
        if name not in domains:
            raise InputError(f"{option}: found {name!r}, wanted one of params.yaml: domains ({', '.join(domains)})")
    if options.steps < 1:
        raise InputError(f"--steps: found {options.steps}, wanted 1 or more")
    rows, first = batches(taught, beside, options.steps), {}
    for name, column in (("wrong", "target"), ("right", "answer")):
        table = watched(rows, column, options.steps)
        with replacing(FOLDER / f"{name}.parquet") as partial:
            table.write_parquet(partial)
        steps = by_step(table)
        print(f"Taught: {name} answers, {TAUGHT} of {taught} and {BESIDE} of {beside} a step")
        with pl.Config(tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=4):
            print(steps)
        first[name] = steps.row(0, named=True)
    print(
        f"{FOLDER}: before any weight moved, reports named {first['wrong']['named']:.0%} of the first batch's wrong "
        f"answers, of which the model said {first['wrong']['says']:.0%}"
    )


if __name__ == "__main__":
    run(main)
