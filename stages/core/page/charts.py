"""Figures as plain data for the template: cells of the heatmap, and training curves as SVG paths."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import polars as pl

from ..evaluate.estimate import Number

NO_HOST = "none"
DEEP = 0.79
"""Share from which a cell is so strongly coloured that its text is set in the other colour (both contrasts are 4.5)."""
WIDTH, HEIGHT = 1000, 320
POINTS = 400


@dataclass(frozen=True)
class Grid:
    """grid.csv by gradient domain and host domain, both by name, "no host" last; None where there were no reports."""

    hosts: list[str]
    rows: list[tuple[str, list[dict[str, Any] | None]]]


def grid_of(table: pl.DataFrame) -> Grid:
    """The grid, whose cells are rows of the table."""
    domains = sorted(table["gradient_domain"].unique())
    hosts = sorted(table["host_domain"].unique(), key=lambda host: (host == NO_HOST, host))
    by_pair = {(row["gradient_domain"], row["host_domain"]): row for row in table.iter_rows(named=True)}
    return Grid(hosts, [(domain, [by_pair.get((domain, host)) for host in hosts]) for domain in domains])


@dataclass(frozen=True)
class Line:
    """One loss over steps. `path`: SVG path in a WIDTH x HEIGHT box. `low`, `low_step`: the smallest loss and where."""

    name: str
    path: str
    first: float
    last: float
    low: float
    low_step: int


@dataclass(frozen=True)
class Tick:
    """A mark on an axis; `at` in percent of the axis, from the left or the bottom."""

    at: Number
    text: str


@dataclass(frozen=True)
class Curve:
    """A training curve. `stride`: every how many-th point is drawn."""

    lines: list[Line]
    steps: list[Tick]
    losses: list[Tick]
    last_step: int
    logarithmic: bool
    stride: int


def curve(table: pl.DataFrame, losses: dict[str, str]) -> Curve:
    """The curve of a table of steps; `losses`: column and what it is called.

    The loss axis is logarithmic where all losses are above 0 and span a factor of 20 or more.
    """
    last = max(1, int(table["step"].max()))  # type: ignore[arg-type]
    values = [value for column in losses for value in table[column].drop_nulls()]
    bottom, top = min(values), max(values)
    logarithmic = bottom > 0 and top / bottom >= 20
    marks = decades(bottom, top) if logarithmic else rounds(bottom, top)
    scale = math.log if logarithmic else float
    low, high = scale(marks[0]), scale(marks[-1])

    def height(loss: Number) -> Number:
        return 100 * (scale(loss) - low) / (high - low)

    lines, stride = [], 1
    for column, name in losses.items():
        points = table.select("step", column).drop_nulls()
        skip = max(1, math.ceil(len(points) / POINTS))
        stride = max(stride, skip)
        shown = [row for index, row in enumerate(points.iter_rows()) if index % skip == 0 or index == len(points) - 1]
        path = "M" + "L".join(f"{WIDTH * x / last:.1f} {HEIGHT * (1 - height(y) / 100):.1f}" for x, y in shown)
        best = points[column].arg_min()
        assert best is not None
        ends = points[column][0], points[column][-1]
        lines.append(Line(name, path, *ends, points[column][best], int(points["step"][best])))
    steps = [Tick(100 * mark / last, f"{mark:.0f}") for mark in rounds(0, last) if mark <= last]
    return Curve(lines, steps, [Tick(height(mark), f"{mark:g}") for mark in marks], last, logarithmic, stride)


def rounds(low: Number, high: Number) -> list[Number]:
    """Round numbers, three to seven, that enclose low and high."""
    spread = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(spread))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2, 5, 10) if spread / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def decades(low: Number, high: Number) -> list[Number]:
    """1, 3 (or only powers of ten, where they span more than four), 10, ... that enclose low and high."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    wide = last - first > 4
    marks = [10.0**power * factor for power in range(first, last + 1) for factor in ((1,) if wide else (1, 3))]
    return marks[max(0, bisect_right(marks, low) - 1) : bisect_left(marks, high) + 1]
