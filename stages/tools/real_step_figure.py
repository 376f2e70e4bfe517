"""The figure of real_step, as a page that works offline: agreement of real and virtual steps over the step size.

A panel is one optimiser and one size of its step; in it stands one plot a measure, and in a plot one line a layer. All
plots of a measure share their axes, the step size is on a logarithmic one.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from ..core.page.charts import HEIGHT, WIDTH, Tick, rounds
from ..core.page.metrics import Number
from ..core.page.page import HERE, environment

TEMPLATE = Path(__file__).with_suffix(".html.j2")
MEASURES = {"correlation": "correlation", "sign_agreement": "equal signs"}
"""Columns of the curve that are drawn, and what they are called."""


@dataclass(frozen=True)
class Line:
    """One layer. `at`: place between the colours of the first layer, 0, and the last, 1.

    `path`: SVG path in a WIDTH x HEIGHT box; `dots`: one of zero-length strokes, at the step sizes where both measures
    reach their threshold.
    """

    layer: int
    at: Number
    values: list[Number]
    path: str
    dots: str


@dataclass(frozen=True)
class Plot:
    """One measure over step size. `threshold`: height of its threshold, percent from the bottom.

    `chance`: SVG path of what virtual steps of other corrections score, mean over the layers.
    """

    measure: str
    threshold: Number
    chance: str
    ticks: list[Tick]
    lines: list[Line]


@dataclass(frozen=True)
class Panel:
    """One size of one optimiser's step, |change of the weights| / |weights|."""

    update: Number
    plots: list[Plot]


def panels(curve: pl.DataFrame, agrees_from: dict[str, Number]) -> dict[str, list[Panel]]:
    """The panels of each optimiser, by size of the step; `agrees_from`: the threshold of each measure."""
    heights = {}
    for measure, least in agrees_from.items():
        lowest = min(least, *curve[measure], *curve[f"{measure}_chance"])
        heights[measure] = rounds(round(lowest, 1), 1.0)  # noise about 0 opens no room below it
    good = curve.with_columns(
        agrees=pl.all_horizontal(pl.col(measure) >= least for measure, least in agrees_from.items())
    )
    found: dict[str, list[Panel]] = {}
    for (optimiser, update), rows in good.group_by("optimiser", "update", maintain_order=True):
        plots = [plot(rows, measure, agrees_from[measure], marks) for measure, marks in heights.items()]
        found.setdefault(str(optimiser), []).append(Panel(float(str(update)), plots))
    return found


def plot(rows: pl.DataFrame, measure: str, threshold: Number, marks: Sequence[Number]) -> Plot:
    """One measure of one panel; `marks`: round numbers from the bottom of the axis to its top."""
    low, high = marks[0], marks[-1]
    layers, places = rows["layer"].unique(maintain_order=True), positions(rows["step_size"].unique().sort().to_list())

    def height(value: Number) -> Number:
        return 100 * (value - low) / (high - low)

    def points(values: Sequence[Number]) -> list[str]:
        pairs = zip(places, values, strict=True)
        return [f"{WIDTH * x / 100:.1f} {HEIGHT * (1 - height(y) / 100):.1f}" for x, y in pairs]

    lines = []
    for index, layer in enumerate(layers):
        of_layer = rows.filter(layer=layer).sort("step_size")
        values = of_layer[measure].to_list()
        found = points(values)
        dots = [f"M{point}h0" for point, agrees in zip(found, of_layer["agrees"], strict=True) if agrees]
        lines.append(Line(layer, index / max(1, len(layers) - 1), values, "M" + "L".join(found), "".join(dots)))
    chance = rows.group_by("step_size").agg(pl.col(f"{measure}_chance").mean()).sort("step_size").to_series(1)
    ticks = [Tick(height(mark), f"{mark:g}") for mark in marks]
    return Plot(measure, height(threshold), "M" + "L".join(points(chance.to_list())), ticks, lines)


def positions(sizes: Sequence[Number]) -> list[Number]:
    """Places of step sizes on a logarithmic axis, percent from the left."""
    first, last = math.log(sizes[0]), math.log(sizes[-1])
    return [100 * (math.log(size) - first) / ((last - first) or 1.0) for size in sizes]


def render(curve: pl.DataFrame, metrics: dict[str, Any]) -> str:
    """The page's HTML, from what real_step writes to curve.csv and metrics.json."""
    sizes = curve["step_size"].unique().sort().to_list()
    made = environment()
    return made.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        MEASURES=MEASURES,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        figure=itertools.count(1).__next__,
        metrics=metrics,
        panels=panels(curve, metrics["agrees_from"]),
        layers=curve["layer"].unique().sort().to_list(),
        sizes=[Tick(place, f"{size:g}") for place, size in zip(positions(sizes), sizes, strict=True)],
    )
