"""Strength by word: at norms that are set, and at those that gradients have."""

from typing import Any

import polars as pl
import pytest

from stages.core.evaluate.scoring import REPORTS
from stages.core.evaluate.strengths import of_factors, of_nature

HOW = 20, 0


def reports(*rows: dict[str, Any]) -> pl.DataFrame:
    made = []
    for number, row in enumerate(rows):
        plain = dict.fromkeys(REPORTS) | {
            "prompt_id": f"id{number}", "target": f"t{number}", "held_out": "none", "gradient_domain": "music",
            "host_domain": "history", "condition": "real",
        }  # fmt: skip
        made.append(plain | row)
    return pl.DataFrame(made, schema=REPORTS)


def test_each_condition_is_scored_by_its_own_factor_and_a_report_without_a_strength_is_wrong():
    said = {"weaker": ["weak", "strong", ""], "stronger": ["strong", "strong", "weak", "strong"]}
    table = reports(*({"condition": name, "strength": word} for name, words in said.items() for word in words))
    found = of_factors(table, {"weaker": 1 / 3, "stronger": 3.0}, *HOW)
    assert found["weaker"]["accuracy"].value == pytest.approx(1 / 3) and found["stronger"]["accuracy"].value == 0.75


def test_natural_strengths_are_scored_at_the_gradients_own_norms():
    """Of five gradients, one with two reports, one is further from the reference than any in training."""
    norms = pl.DataFrame({"prompt_id": [f"id{n}" for n in range(6)], "natural": [0.1, 3.0, -1.0, 1.0, -0.5, 9.0]})
    rows = [{"strength": word} for word in ("weak", "strong", "weak", "weak", "weak")]
    table = reports(*rows, {"strength": "strong", "prompt_id": "id4"}, {"condition": "zero", "strength": "strong"})
    found = of_nature(table, norms, 2.5, *HOW)
    assert found["accuracy"].value == 3 / 6 and found["share_further"] == 0.2 and found["median_apart"] == 1
