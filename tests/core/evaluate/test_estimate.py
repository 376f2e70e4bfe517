"""Estimates: against chance, and as metrics.json holds them."""

import json
from typing import Any

import pytest

from stages.core.evaluate.estimate import Estimate, flat, from_json, to_json


@pytest.mark.parametrize(
    ("low", "high", "chance", "standing"),
    [
        (0.2, 0.3, 0.1, "above"),
        (0.1, 0.3, 0.1, "at"),
        (0, 0, 0, "at"),
        (0.0, 0.05, 0.1, "below"),
        (0.1, 0.2, None, "unknown"),
    ],
)
def test_an_interval_that_includes_chance_is_null(low: float, high: float, chance: float | None, standing: str):
    assert Estimate((low + high) / 2, low, high, chance).standing == standing


GAP, SPOKEN = Estimate(-0.1, -0.2, 0.0, rows=8), Estimate(0.9, reason="found 4 entities", entities=4)
METRICS: dict[str, Any] = {
    "decoupling": {"target": Estimate(0.5, 0.4, 0.6, 0.1, difference=GAP, spoken=SPOKEN), "shams": Estimate(3)},
    "controls": {"zero": {"target": Estimate(0.0)}},
}


def test_what_is_written_reads_back_the_same_and_holds_only_what_there_is():
    content = json.loads(json.dumps(to_json(METRICS)))
    assert from_json(content) == METRICS
    assert content["decoupling"]["target"]["difference"] == {"value": -0.1, "low": -0.2, "high": 0.0, "rows": 8}
    assert content["controls"] == {"zero": {"target": {"value": 0.0}}}


def test_a_plain_number_is_written_as_it_is_and_read_as_an_estimate():
    assert to_json({"reports": 3, "share": 0.5}) == {"reports": 3, "share": 0.5}
    assert from_json({"reports": 3, "share": 0.5}) == {"reports": Estimate(3), "share": Estimate(0.5)}


def test_flat_names_every_estimate_by_its_place():
    assert list(flat(METRICS)) == [
        "decoupling.target", "decoupling.target.difference", "decoupling.target.spoken", "decoupling.shams",
        "controls.zero.target",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"b": "high"}}, "a.b: found 'high', wanted a finite number"),
        ({"a": {"b": {"value": True}}}, "a.b.value: found True, wanted a finite number"),
        ({"a": {"b": {"value": 1, "low": float("nan")}}}, "a.b.low: found nan, wanted a finite number"),
        ({"a": {"b": {"value": 1, "difference": {"value": None}}}}, "a.b.difference.value: found None, wanted"),
        ({"a": {"b": {"value": 1, "lowest": 0.5}}}, "a.b.lowest: unknown key, wanted one of value, low,"),
    ],
)
def test_what_is_no_estimate_is_named(content: dict[str, Any], message: str):
    with pytest.raises(ValueError) as raised:
        from_json(content)
    assert str(raised.value).startswith(message)
