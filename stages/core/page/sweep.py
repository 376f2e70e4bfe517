"""A sweep over layers and projector architectures: data/sweep/<name>.csv, written by a tool, shown on the page.

A row is one experiment: the projector of that architecture, trained on the gradients of that one layer, all else as in
params.yaml. `settings` says which "all else": a digest of every section that the experiments depend on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from stages.core.page.metrics import WORDS, Estimate, Group
from stages.core.page.tables import read_csv
from stages.core.seeds import digest

FOLDER = Path("data/sweep")
# Column of the table -> group and number of metrics.json; each with the ends of its interval, <column>_low and _high.
NUMBERS = {
    "domain_accuracy": ("decoupling", "domain_accuracy"),
    "target_accuracy": ("decoupling", "target_accuracy"),
    "answer_accuracy": ("decoupling", "answer_accuracy"),
    "held_out_target": ("held_out_target", "target_accuracy"),
    "host_intrusion": ("decoupling", "host_intrusion"),
}
SWEPT_WORDS = WORDS | {"held_out_target": "Held-out target"}
ENDS = ("", "_low", "_high")
SWEPT = ("architecture", "layers")
"""The keys of section `projector` that a sweep varies."""
BESIDE = ("report", "api", "judge")
"""Sections that no experiment depends on."""


@dataclass(frozen=True)
class Point:
    """One experiment. `current`: its layer and architecture are those of params.yaml."""

    layer: int
    architecture: str
    current: bool
    group: Group


@dataclass(frozen=True)
class Sweep:
    """The experiments of one table, by layer. `same_settings`: all that was not swept is as params.yaml has it now."""

    path: Path
    same_settings: bool
    layers: dict[int, list[Point]]


def settings_of(params: dict[str, Any]) -> str:
    """The digest of all that a sweep's experiments share; `params`: all of params.yaml."""
    shared = {name: section for name, section in params.items() if name not in BESIDE}
    shared["projector"] = {key: value for key, value in params["projector"].items() if key not in SWEPT}
    return digest(json.dumps(shared, sort_keys=True))[:16]


def row_of(layer: int, architecture: str, settings: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """One experiment as a row of the table, from its metrics.json; a number that was not measured is null."""
    row: dict[str, Any] = {"layer": layer, "architecture": architecture, "settings": settings}
    for column, (group, name) in NUMBERS.items():
        row |= {f"{column}{end}": metrics.get(group, {}).get(f"{name}{end}") for end in ENDS}
    return row


def read_sweep(name: str, params: dict[str, Any]) -> Sweep:
    """Reads and checks a table.

    Raises:
        ValueError: it is missing or unreadable, has no rows, a row twice, rows of several settings, or a number that
            is no fraction.
    """
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file, but params.yaml: report.sweeps names it; run make sweep, or take the name out"
        )
    columns = [f"{column}{end}" for column in NUMBERS for end in ENDS]
    table = read_csv(path, "architecture", "settings", numbers=("layer", *columns))
    again = "run make sweep again"
    if table.is_empty():
        raise ValueError(f"{path}: (whole file): no rows, wanted one an experiment; {again}")
    twice = table.filter(table.select("layer", "architecture").is_duplicated())
    if len(twice):
        raise ValueError(f"{path}: layer {twice[0, 'layer']}, {twice[0, 'architecture']}: stands twice; {again}")
    if table["settings"].n_unique() > 1:
        raise ValueError(f"{path}: column settings: found {table['settings'].n_unique()} values, wanted one; {again}")
    for column in columns:
        outside = table.filter(~pl.col(column).is_between(0, 1))
        if len(outside):
            raise ValueError(f"{path}: column {column}: found {outside[column][0]}, wanted a fraction from 0 to 1")
    own = params["projector"]["layers"], params["projector"]["architecture"]
    layers: dict[int, list[Point]] = {}
    for row in table.sort("layer", maintain_order=True).iter_rows(named=True):
        found = {
            column: Estimate(column, row[column], row[f"{column}_low"], row[f"{column}_high"])
            for column in NUMBERS
            if row[column] is not None
        }
        layer, architecture = row["layer"], row["architecture"]
        point = Point(layer, architecture, ([layer], architecture) == own, Group(architecture, found))
        layers.setdefault(layer, []).append(point)
    return Sweep(path, table["settings"][0] == settings_of(params), layers)
