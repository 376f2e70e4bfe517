"""DVC's plot of real_step shows every row of the curve as it is, against the thresholds that the tool uses."""

import json
import shutil
from itertools import product
from typing import Any

import polars as pl
import pytest

from stages.tools.real_step import AGREES, OPTIMISERS, SCORES, STEP_SIZES, UPDATES
from tests.pipeline import tiny
from tests.pipeline.test_plots import nodes

LAYERS = (0, 5, 11)


def curve() -> pl.DataFrame:
    """Agreement that falls with step size and layer, below 0 and below chance in the end."""
    rows = [
        (optimiser, update, layer, size, 1 - 0.25 * place - 0.05 * layer, 1 - 0.04 * place * (layer + 1), -0.02, 0.6)
        for optimiser, update, layer, (place, size) in product(OPTIMISERS, UPDATES, LAYERS, enumerate(STEP_SIZES))
    ]
    return pl.DataFrame(rows, schema=["optimiser", "update", "layer", "step_size", *SCORES], orient="row")


@pytest.fixture(scope="module")
def plot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The Vega-Lite specification that the documented command fills in."""
    root = tmp_path_factory.mktemp("plot")
    tiny.command(root, "dvc", "init", "--no-scm")
    shutil.copytree(tiny.ROOT / ".dvc/plots", root / ".dvc/plots", dirs_exist_ok=True)
    (root / "data/real_step").mkdir(parents=True)
    curve().write_csv(root / "data/real_step/curve.csv", float_precision=6)
    options = ["--template", "real_step", "-x", "step_size", "-y", "correlation", "--json"]
    shown = json.loads(tiny.command(root, "dvc", "plots", "show", "data/real_step/curve.csv", *options).stdout)
    ((one,),) = shown["data"].values()
    return json.loads(one["content"]) if isinstance(one["content"], str) else one["content"]


def test_every_row_of_the_curve_is_drawn_as_it_is(plot: dict[str, Any]) -> None:
    rows = pl.DataFrame(plot["data"]["values"]).select(curve().columns).cast(curve().schema)
    assert rows.equals(curve().with_columns(pl.col(*SCORES).round(6)))
    assert "<DVC_METRIC" not in json.dumps(plot)
    assert not [node for node in nodes(plot) if {"aggregate", "bin", "stack"} & {*node}]
    assert {panel["as"] for panel in plot["transform"][1:]} == {"chance", "threshold", "panel"}
    names = [f"{name}, {measure}" for name, measure in product(OPTIMISERS, ("correlation", "equal signs"))]
    assert plot["facet"]["row"]["sort"] == names
    assert plot["facet"]["column"]["field"] == "update"


def test_lines_chance_and_thresholds_stand_in_each_panel(plot: dict[str, Any]) -> None:
    fold, chance, threshold, _ = plot["transform"]
    assert fold == {"fold": list(AGREES), "as": ["measure", "value"]}
    assert all(f"{measure}_chance" in SCORES for measure in AGREES) and "_chance" in chance["calculate"]
    first, second = AGREES.values()
    assert threshold["calculate"] == f"datum.measure === 'correlation' ? {first} : {second}"
    assert [layer["encoding"]["y"]["field"] for layer in plot["spec"]["layer"]] == [
        "threshold", "chance", "value", "value",
    ]  # fmt: skip
    shared = plot["spec"]["encoding"]
    assert shared["x"]["field"] == "step_size" and shared["x"]["scale"] == {"type": "log"}
    assert {"field": "layer"} in shared["detail"] and {"field": "rev"} in shared["detail"]


def test_a_dot_stands_where_both_measures_reach_their_threshold(plot: dict[str, Any]) -> None:
    dots = plot["spec"]["layer"][-1]
    assert dots["mark"]["type"] == "point"
    assert dots["transform"] == [
        {"filter": f"toNumber(datum.{measure}) >= {least}"} for measure, least in AGREES.items()
    ]
