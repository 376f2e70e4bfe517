"""What the reports are held against: the same gradients, paired differences."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from stages.core.data.gathering import Gathered
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import samples_of
from stages.core.evaluate.metrics import steering_success
from stages.core.evaluate.scores import reference_scores
from stages.core.evaluate.section import Evaluation
from stages.core.evaluate.table import REPORTS
from stages.core.model.decoder import Decoder
from stages.core.reader.reader import Reader
from tests.core.conftest import FACTS
from tests.core.reader.teaching import new_reader, settings

HOW = Evaluation(gradients=8, fine_tuned=1, edits=0, step_sizes=[0.5, 1.0], bootstrap=50, report_tokens=4, seed=0)
LAYERS = [0, 1]
WIDTH = 32


def table() -> pl.DataFrame:
    """Every move between two entities of a domain, on the prompt of its answer; every third is of a held-out group."""
    rows: list[dict[str, Any]] = []
    for domain, relations in FACTS.items():
        template, _, _, pairs = next(iter(relations.values()))
        facts = [pair.split(",") for pair in pairs[:4]]
        for subject, answer in facts:
            for _, target in facts:
                if target != answer:
                    number = len(rows)
                    rows.append(
                        {
                            "row": number, "prompt_id": f"id{number}", "domain": domain, "relation": "of",
                            "prompt": template.format(subject=subject), "target": target, "answer": answer,
                            "held_out": "target" if number % 3 == 2 else "none",
                        }
                    )  # fmt: skip
    return pl.DataFrame(rows)


def gathered(rows: pl.DataFrame) -> Gathered:
    """With a gradient that is its target's direction and, less, its answer's: the same in all rows that agree."""
    rng = np.random.default_rng(0)
    names = sorted({*rows["target"], *rows["answer"]})
    to, away = ({name: rng.standard_normal((len(LAYERS), WIDTH)) for name in names} for _ in range(2))
    pairs = rows.select("target", "answer").iter_rows()
    gradient = np.stack([to[target] + 0.5 * away[answer] for target, answer in pairs]).astype(np.float32)
    return Gathered(rows, gradient, rng.standard_normal(gradient.shape).astype(np.float32), LAYERS)


def reports(rows: pl.DataFrame, right: pl.Series, **same: Any) -> pl.DataFrame:
    """A report in front of a foreign host on each row's gradient; `right`: whether all of it is."""
    cases = rows.select("prompt_id", "held_out", "prompt", "target", "answer", gradient_domain="domain")
    columns = {"domain_right": right, "target_right": right, "answer_right": right}
    given = {"condition": "real", "host_domain": "elsewhere", "seed": 0, "host_intrusion": False} | same
    found = cases.with_columns(**columns, **{name: pl.lit(value) for name, value in given.items()})
    missing = [pl.lit(None).alias(name) for name in REPORTS if name not in found.columns]
    return found.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in REPORTS.items())


@pytest.fixture
def rows() -> pl.DataFrame:
    return table()


@pytest.fixture
def reader(small_decoder: Decoder) -> Reader:
    return new_reader(small_decoder, settings(places=["target_1"]))


def test_references_are_scored_on_the_gradients_that_the_reports_are_about_group_by_group(
    reader: Reader, rows: pl.DataFrame
):
    asked = rows[:20]
    found = reference_scores(gathered(rows), rows, rows, reports(asked, asked["row"] > 4), reader, 0)
    assert set(found) == {"without_model", "ceiling", "floor", "retrieval"}
    for scores in found.values():
        assert scores["reports"] == 14 and scores["held_out_target"]["reports"] == 6
        assert scores["held_out_target"]["target_accuracy"].difference is not None
        assert "held_out_subject" not in scores
    assert found["retrieval"]["target_accuracy"].value == found["ceiling"]["target_accuracy"].value == 1


def test_a_difference_is_reports_minus_reference_each_gradient_once_however_many_its_reports(
    reader: Reader, rows: pl.DataFrame
):
    """Three of ten gradients are reported wrongly, one of these by one of four reports; retrieval is always right."""
    asked = rows.filter(pl.col("held_out") == "none")[:10]
    wrong = asked["prompt_id"].is_in(asked["prompt_id"][:2].to_list())
    twice = [reports(asked, ~wrong, seed=seed) for seed in (0, 1)]
    third = asked[2:3]
    more = [reports(third, pl.Series([right]), seed=2, host_domain=f"h{right}") for right in (True, False)]
    found = reference_scores(gathered(rows), rows, rows, pl.concat([*twice, *more]), reader, 0)["retrieval"]
    assert found["reports"] == 10 and found["target_accuracy"].value == 1
    assert found["target_accuracy"].difference.value == pytest.approx(-(2 + 1 / 4) / 10)


def test_a_reference_learns_nothing_from_rows_that_it_is_not_taught(reader: Reader, rows: pl.DataFrame):
    data, unseen = gathered(rows), rows["target"][0]
    train = rows.filter(pl.col("target") != unseen)
    asked = rows.filter(pl.col("target") == unseen)
    found = reference_scores(data, train, rows, reports(asked, asked["row"] >= 0), reader, 0)
    assert found["ceiling"]["target_accuracy"].value == found["retrieval"]["target_accuracy"].value == 0


def test_steering_is_counted_row_by_row_whatever_the_batches(small_decoder: Decoder, rows: pl.DataFrame):
    """Steps are taken in batches of like length, and so in another order than the rows'."""
    gradient = np.zeros((len(rows), len(LAYERS), WIDTH), dtype=np.float32)
    for batch in activation_gradients(small_decoder, samples_of(small_decoder, rows), LAYERS):
        gradient[batch.rows] = batch.gradient
    data = replace(gathered(rows), gradient=gradient)
    found = steering_success(data, rows, rows, small_decoder, HOW)
    singly = [steering_success(data, rows, rows[row : row + 1], small_decoder, HOW) for row in range(len(rows))]
    assert found["rows"] == len(rows) and found["update_direction_1"].value > 0
    for name in (
        "cosine",
        *(f"{by}_{size}" for by in ("update_direction", "steering_vector") for size in ("0.5", "1")),
    ):
        assert found[name].value == pytest.approx(np.mean([each[name].value for each in singly]), abs=1e-6)


def test_without_training_prompts_of_both_entities_steering_says_nothing(small_decoder: Decoder, rows: pl.DataFrame):
    train = rows.filter(pl.col("domain") == "music")
    test = rows.filter(pl.col("domain") == "geography")
    assert steering_success(gathered(rows), train, test, small_decoder, HOW) == {"rows": 0}
