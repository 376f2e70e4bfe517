"""The stage free_words: what a reader of free text is trained on, and how texts are scored without a parser."""

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.data.gathering import Gathered, gather
from stages.core.data.grammar import NO_PRESSURE
from stages.core.data.summaries import FORMS, in_held_out_form, summarise
from stages.core.data.tables import read_table
from stages.core.model.opening import open_model
from stages.core.reader.card import bias_card
from stages.core.reader.lessons import curriculum
from stages.core.reader.reader import Reader
from stages.core.reader.reports import answer_losses, prompts_of
from stages.core.reader.section import Projector
from stages.core.reader.training import card_for, report_loss
from stages.core.run.params import read_sections
from stages.tools.free_words import FREE, TRAINED, Sections, candidates, marked, retrieved
from stages.tools.sweep_table import called
from tests.pipeline import tiny
from tests.pipeline.warm import Warm

RESULTS = tiny.ROOT / "tests/benchmarks/results/free_words.json"
SHORT = {"stages/tools/free_words.py": (('"steps": 640', '"steps": 4'),)}
"""An edit of the stage: a training of a moment."""


@pytest.fixture
def settings(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Projector:
    monkeypatch.chdir(tiny_pipeline)
    return Projector.model_validate(read_sections(Sections).projector.model_dump() | TRAINED)


@pytest.fixture
def data(settings: Projector) -> Gathered:
    return gather(tiny.DOMAINS, settings.layers, places=settings.places)


@pytest.fixture
def reader(data: Gathered, settings: Projector) -> Reader:
    """Untrained."""
    decoder, model = open_model()
    return Reader(decoder, card_for(decoder, model, data, settings), 0)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_no_row_that_is_learned_from_has_a_held_out_form(
    data: Gathered, reader: Reader, settings: Projector, split: str
):
    lessons = curriculum(data, split, reader, settings)
    told = {text for step in range(40) for text in lessons.draw(split, step, 32, 32).reports}
    known = set(data.rows["label_summary"])
    assert told <= known | {NO_PRESSURE} and len(told) > 2
    said = pl.DataFrame({"summary": sorted(told)})
    assert not said.select(in_held_out_form(pl.col("summary")))["summary"].any()
    held = data.rows.filter(in_held_out_form(pl.col("label_summary").cast(pl.String)))
    assert len(held)


def test_the_loss_is_that_of_the_summaries_texts_to_their_ends(data: Gathered, reader: Reader, settings: Projector):
    draws = curriculum(data, "train", reader, settings).draw("train", 0, 8, 8)
    slots = reader.read(draws.gradients)
    end = min(reader.decoder.eos_ids())
    answers = [[*reader.decoder.continuation(text), end] for text in draws.reports]
    prompts = prompts_of(reader, draws.hosts, settings.question, slots)
    assert report_loss(reader, draws, slots) == answer_losses(reader, prompts, answers, slots)[0].mean()
    assert not all("a name from" in text and text.startswith("toward") for text in draws.reports)


@pytest.mark.parametrize("changes", [{"flips": 0.3}, {"differences": 0.5}, {"learns_from": "words"}])
def test_a_gradient_that_is_changed_has_no_summary(settings: Projector, changes: dict[str, object]):
    with pytest.raises(ValueError, match="a gradient that is changed has no summary of its own"):
        Projector.model_validate(settings.model_dump() | changes)


def test_retrieval_of_a_reader_that_ignores_the_gradient_is_at_chance(reader: Reader):
    blind = Reader(reader.decoder, bias_card(reader.card), 0)
    rows = 192
    shape = (rows, len(reader.card.places) * len(reader.card.layers), reader.decoder.d_model)
    slots = blind.read(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    among = candidates([str(number) for number in range(rows)], 0)
    assert among.shape == (rows, 64) and all(row in numbers for row, numbers in enumerate(among))
    texts = [summarise("geography", "x", str(number), FORMS[0]) for number in range(rows)]
    assert retrieved(blind, slots, texts, among).sum() <= 9  # 3 are expected; more in 1 of 1000 draws
    few = np.array([[0, 1], [0, 1]])
    assert retrieved(blind, slots[:2], texts[:2], few).tolist() == [True, False]  # equal ones: the first


def test_a_name_counts_where_it_stands_as_words(data: Gathered):
    row = data.rows.filter(pl.col("answer").is_not_null()).row(0, named=True)
    kept = {name: row[name] for name in ("prompt_id", "held_out", "prompt", "target", "answer")}
    own = {"host_prompt_id": None, "gradient_domain": row["domain"], "host_domain": "none", "host": None}
    cases = pl.DataFrame([kept | own] * 3, infer_schema_length=None)
    texts = [f"so it is {row['target'].upper()} !", f"{row['target']}x {row['answer']}", f"in {row['domain']}"]
    found = marked(cases, "real", texts)
    assert found["target_right"].to_list() == [True, False, False]
    assert found["answer_right"].to_list() == [False, True, False]
    assert found["domain_right"].to_list() == [False, False, True]


def test_make_free_words_scores_every_text_twice_the_same(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.declare_sweeps(root)
    tiny.changed(root, SHORT)
    done = tiny.command(root, "make", "-o", ".venv/.built", "free-words", warm=warm_python)
    assert "teacher: names the target in" in done.stdout
    folder = root / "data/free_words"
    table = read_table(folder / "reports.parquet", FREE)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert set(table["condition"]) == set(called("texts")) == set(metrics["seen"]) - {"reports", "gradients"}
    assert metrics["seen"]["teacher"]["target_accuracy"]["value"] == (
        table.filter((pl.col("condition") == "teacher") & (pl.col("held_out") == "none"))["target_right"].mean()
    )
    assert metrics["seen"]["empty"]["target_accuracy"]["value"] == 0
    page = html.unescape((root / "data/report/index.html").read_text(encoding="utf-8"))
    assert all(words in page for words in called("texts").values())
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    tiny.command(root, "python", "-m", "stages.tools.free_words", warm=warm_python)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    judge = tiny.command(
        root, "python", "-m", "stages.tools.judge", "data/free_words/reports.parquet", warm=warm_python
    )
    assert "judge: off" in judge.stdout
    shutil.rmtree(root)


def rows_of(found: dict[str, Any]) -> str:
    """The rows of the docs' table of one group: shares with their intervals."""
    rows = []
    for condition, words in called("texts").items():
        scores = [found[condition][name] for name in ("target_accuracy", "answer_accuracy", "retrieved")]
        cells = [f"{one['value']:.2f} ({one['low']:.2f}–{one['high']:.2f})" for one in scores]
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_figures_in_the_docs_are_those_of_the_run():
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = (tiny.ROOT / "docs/free-words.md").read_text(encoding="utf-8")
    for group in called("groups"):
        assert rows_of(found[group]) in text
        assert f"{found[group]['reports']} gradients" in text
