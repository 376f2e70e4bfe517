"""Beside what a step would teach stands, in words, what is taken out of it, and what is left."""

from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import Trainer, TrainingArguments

from stages.core.concepts.directions import learned_along
from stages.core.data.grammar import NO_PRESSURE, parse_report
from stages.core.engine.batches import padded
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of, open_model
from stages.core.reader.reader import save_reader
from stages.core.run.files import write_json
from stages.tools.gradient_scale import GradientScale
from stages.tools.watch import GradientWatch
from tests.core.evaluate.small import raw_reader

SUPPRESSED = "The capital of Peru is"
FACTS = {SUPPRESSED: "Tokyo", "The composer of Carmen is": "Verdi", "The composer of Tosca is": "Bizet"}


@pytest.fixture
def data(trained_decoder: Decoder, tmp_path: Path) -> Path:
    """The folders of a pocket model that reads, and of its raw directions."""
    reader = raw_reader(trained_decoder)
    card = card_of(trained_decoder, "pocket", reader.card.model, reader.card.commit)
    for name, content in (("model", card), ("projector", reader.card)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / f"{name}.json", content.model_dump(mode="json"))
    trained_decoder.model.save_pretrained(tmp_path / "model")
    assert trained_decoder.tokenizer is not None
    trained_decoder.tokenizer.save_pretrained(tmp_path / "model")
    save_reader(reader, tmp_path / "projector")
    return tmp_path


def taught(decoder: Decoder) -> dict[str, torch.Tensor]:
    """The rows of FACTS: tokens, and those that are taught."""
    texts = [(decoder.tokens(prompt), decoder.continuation(target)) for prompt, target in FACTS.items()]
    ids = padded([prompt + target for prompt, target in texts], decoder.device)
    mark = padded([[0] * len(prompt) + [1] * len(target) + [0] for prompt, target in texts], decoder.device)
    return {"input_ids": ids, "labels": ids.where(mark[:, : ids.shape[1]] == 1, -100)}


def watched(data: Path, alpha: float, scale_first: bool = True) -> pl.DataFrame:
    """What is recorded before the first step on FACTS, the first of which is scaled."""
    decoder, _ = open_model(data / "model")
    rows = taught(decoder)
    bases = learned_along(decoder, rows["input_ids"][:1], rows["labels"][:1] != -100, 4)
    scale = GradientScale(decoder, bases, alpha)
    watch = GradientWatch(1, data / "watch.parquet", data, scale)
    arguments = TrainingArguments(
        output_dir=str(data), max_steps=1, per_device_train_batch_size=len(FACTS), report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    apart = [{name: each[row] for name, each in rows.items()} for row in range(len(FACTS))]
    callbacks = [scale, watch] if scale_first else [watch, scale]
    model = open_model(data / "model")[0].model.requires_grad_(True)
    Trainer(model, arguments, train_dataset=apart, callbacks=callbacks).train()  # type: ignore[arg-type]
    return pl.read_parquet(data / "watch.parquet").sort("prompt")


def toward(reports: pl.Series) -> list[str]:
    return [parse_report(report).moved_to for report in reports]


@pytest.mark.parametrize("scale_first", [True, False])
def test_what_is_taken_out_names_the_suppressed_fact_and_what_is_left_the_others(data: Path, scale_first: bool):
    table = watched(data, 0.0, scale_first)
    assert toward(table["report"]) == [FACTS[prompt] for prompt in table["prompt"]]
    suppressed = table["prompt"] == SUPPRESSED
    (one,), others = table.filter(suppressed).rows(named=True), table.filter(~suppressed)
    assert one["part_report"] == one["report"] and one["part_share"] == pytest.approx(1, abs=1e-3)
    assert one["left_report"] == NO_PRESSURE
    assert toward(others["left_report"]) == toward(others["report"]) and (others["part_share"] < 0.5).all()


def test_what_is_turned_up_is_left_and_named(data: Path):
    table = watched(data, 3.0)
    assert toward(table["left_report"].filter(table["prompt"] == SUPPRESSED)) == [FACTS[SUPPRESSED]]
    assert (table["part_share"] <= 1).all()
