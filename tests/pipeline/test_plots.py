"""DVC's plots show what the tables hold: every row and every number, of one revision and of two."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.pipeline import tiny

OWN = {path.stem for path in (tiny.ROOT / ".dvc/plots").glob("*.json")}
PLOTS = {
    name: plot
    for each in YAML(typ="safe").load((tiny.ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    for name, plot in each.items()
}
EVERY_PLOT = pytest.mark.parametrize("name", PLOTS)
OF_AN_OWN_TEMPLATE = pytest.mark.parametrize("name", [name for name, plot in PLOTS.items() if plot["template"] in OWN])
Rows = list[dict[str, str]]


def tables(name: str) -> list[str]:
    """The CSVs that a plot of dvc.yaml reads."""
    return [*PLOTS[name]["y"]]


def rows_of(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def drawn(root: Path, *command: str) -> dict[str, dict[str, Any]]:
    """The Vega-Lite specification of each plot, filled in by DVC."""
    plots = json.loads(tiny.command(root, "dvc", "plots", *command, "--json").stdout)["data"]
    found = {}
    for name, (plot,) in plots.items():
        content = plot["content"]
        found[name] = json.loads(content) if isinstance(content, str) else content
    return found


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every object of a specification that isn't data."""
    if isinstance(part, dict):
        yield part
        part = [value for key, value in part.items() if key != "data"]
    if isinstance(part, list):
        for each in part:
            yield from nodes(each)


def fields(specification: dict[str, Any]) -> set[str]:
    """The columns that a specification reads: by channels and by the expressions of filters and conditions."""
    found = set[str]()
    for node in nodes(specification):
        found |= {node["field"]} if isinstance(node.get("field"), str) else set()
        for key in ("filter", "test"):
            if isinstance(node.get(key), str):
                found |= {a or b for a, b in re.findall(r"datum(?:\.(\w+)|\['(\w+)'\])", node[key])}
    return found


def shown(specification: dict[str, Any], name: str, revision: str) -> Rows:
    """The rows of a plot that are of a revision, as the plot's table has them, one after the other for each y."""
    added = {"rev", "filename", "field", "dvc_inferred_y_value"}
    rows: Rows = [row for row in specification["data"]["values"] if row["rev"] == revision]
    several = [y for y in PLOTS[name]["y"].values() if isinstance(y, list)]
    for row in rows if several else []:
        assert row["dvc_inferred_y_value"] == row[row["field"]]
    return [{key: value for key, value in row.items() if key not in added} for row in rows]


def expected(root: Path, name: str) -> Rows:
    """The rows of a plot's tables, once for each y."""
    return [
        row
        for table, y in PLOTS[name]["y"].items()
        for _ in (y if isinstance(y, list) else [y])
        for row in rows_of(root / table)
    ]


@pytest.fixture(scope="module")
def one(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each plot of the finished tiny repository."""
    return drawn(tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("one") / "repository"), "show")


@pytest.fixture(scope="module")
def changed(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose tables are not those of HEAD: the last row of each is gone."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("changed") / "repository")
    for table in {table for name in PLOTS for table in tables(name)}:
        path = root / table
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.unlink()  # it may be a link into DVC's cache
        path.write_text("".join(lines[:-1]), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def two(changed: Path) -> dict[str, dict[str, Any]]:
    """Each plot of HEAD against what the working tree holds."""
    return drawn(changed, "diff", "HEAD")


@EVERY_PLOT
def test_a_plot_shows_every_row_of_its_table(one: dict[str, dict[str, Any]], tiny_pipeline: Path, name: str):
    rows = shown(one[name], name, "workspace")
    assert rows and rows == expected(tiny_pipeline, name)


@EVERY_PLOT
def test_two_revisions_are_shown_each_with_its_own_numbers(
    two: dict[str, dict[str, Any]], changed: Path, tiny_pipeline: Path, name: str
):
    before, after = shown(two[name], name, "HEAD"), shown(two[name], name, "workspace")
    assert before == expected(tiny_pipeline, name) and after == expected(changed, name) and len(after) < len(before)
    assert "rev" in fields(two[name])  # and they are told apart


@OF_AN_OWN_TEMPLATE
def test_an_own_template_draws_columns_that_are_there_as_they_are(one: dict[str, dict[str, Any]], name: str):
    specification = one[name]
    assert fields(specification) <= {*specification["data"]["values"][0]}
    assert "<DVC_METRIC" not in json.dumps(specification)  # every anchor is filled
    # A mark is a row: nothing is counted, averaged or stacked.
    assert not [node for node in nodes(specification) if {"aggregate", "bin", "stack"} & {*node}]


def test_every_own_template_is_used():
    by_command = {"real_step"}  # tests/tools/test_real_step_plot.py
    assert {plot["template"] for plot in PLOTS.values()} | by_command >= OWN


def marks(specification: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of a plot with layers, the channels of each with those that it shares with the others."""
    inner = specification["spec"]
    return [layer["encoding"] | inner["encoding"] for layer in inner["layer"] if "encoding" in layer]


def test_the_grid_s_cells_are_coloured_by_domain_accuracy_which_they_say(one: dict[str, dict[str, Any]]):
    cells, text = marks(one["Gradient domain against host domain"])
    assert cells["color"]["field"] == text["text"]["field"] == "domain_accuracy"
    assert cells["color"]["scale"]["domain"] == [0, 1]  # so that two revisions have the same colours
    for layer in (cells, text):
        assert (layer["x"]["field"], layer["y"]["field"]) == ("host_domain", "gradient_domain")


def test_each_score_of_a_condition_has_its_place_interval_and_chance(one: dict[str, dict[str, Any]]):
    specification = one["Conditions"]
    points, whiskers, chance = marks(specification)
    assert specification["facet"]["column"]["field"] == "metric"  # the scores are never added up
    assert (whiskers["x"]["field"], whiskers["x2"]["field"]) == ("low", "high")
    assert points["x"]["field"] == "value" and points["x"]["scale"]["domain"] == [0, 1]
    assert chance["x"]["field"] == "chance"
    rows = specification["data"]["values"]
    places = [(row["metric"], row["condition"]) for row in rows]
    assert len({*places}) == len(places)
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows if row["low"])
    # What has no interval or no chance gets no mark, rather than one at 0.
    filters = [layer.get("transform") for layer in specification["spec"]["layer"]]
    assert filters == [None, *([{"filter": f"toNumber(datum.{name}) !== null"}] for name in ("low", "chance"))]
    assert {row["chance"] == "" for row in rows} == {True, False}


def test_each_seed_of_the_projector_has_a_line(one: dict[str, dict[str, Any]]):
    encoding = one["Training of the projector"]["encoding"]
    assert encoding["detail"]["field"] == "seed" and encoding["column"]["field"] == "field"
