"""A sweep over layers and projector architectures: data/sweep/<name>.csv, written by a tool, shown on the page.

A row is one experiment: the projector of that architecture, with these seeds, reading the gradients of these layers
("2", or "2+3": both at once), all else as in params.yaml. `settings` says which "all else": a digest of every section
that the experiments depend on.
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
SWEPT = ("architecture", "layers", "seeds")
"""The keys of section `projector` that a sweep sets."""
BESIDE = ("report", "api", "judge")
"""Sections that no experiment depends on."""


@dataclass(frozen=True)
class Point:
    """One experiment. `current`: its layers and architecture are those of params.yaml."""

    architecture: str
    current: bool
    group: Group


@dataclass(frozen=True)
class Sweep:
    """The experiments of one table, by layers. `same_settings`: all that was not swept is as params.yaml has it now."""

    path: Path
    same_settings: bool
    seeds: str
    layers: dict[str, list[Point]]


def settings_of(params: dict[str, Any]) -> str:
    """The digest of all that a sweep's experiments share; `params`: all of params.yaml."""
    shared = {name: section for name, section in params.items() if name not in BESIDE}
    shared["projector"] = {key: value for key, value in params["projector"].items() if key not in SWEPT}
    return digest(json.dumps(shared, sort_keys=True))[:16]


def listed(numbers: list[int]) -> str:
    """Layers, or seeds, as the table has them: "2+3"."""
    return "+".join(map(str, numbers))


def row_of(projector: dict[str, Any], settings: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """One experiment as a row of the table, from its params and metrics.json; a number not measured is null."""
    row = {key: listed(projector[key]) if key != "architecture" else projector[key] for key in SWEPT}
    row |= {"settings": settings}
    for column, (group, name) in NUMBERS.items():
        row |= {f"{column}{end}": metrics.get(group, {}).get(f"{name}{end}") for end in ENDS}
    return row


def read_sweep(name: str, params: dict[str, Any]) -> Sweep:
    """Reads and checks a table.

    Raises:
        ValueError: it is missing or unreadable, has no rows, a row twice, rows of several settings or seeds, or a
            number that is no fraction.
    """
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file, but params.yaml: report.sweeps names it; run make sweep, or take the name out"
        )
    columns = [f"{column}{end}" for column in NUMBERS for end in ENDS]
    table = read_csv(path, *SWEPT, "settings", numbers=tuple(columns))
    again = "run make sweep again"
    if table.is_empty():
        raise ValueError(f"{path}: (whole file): no rows, wanted one an experiment; {again}")
    twice = table.filter(table.select("layers", "architecture").is_duplicated())
    if len(twice):
        raise ValueError(f"{path}: layers {twice[0, 'layers']}, {twice[0, 'architecture']}: stands twice; {again}")
    for column in ("settings", "seeds"):
        if table[column].n_unique() > 1:
            raise ValueError(f"{path}: column {column}: found {table[column].n_unique()} values, wanted one; {again}")
    for column in columns:
        outside = table.filter(~pl.col(column).is_between(0, 1))
        if len(outside):
            raise ValueError(f"{path}: column {column}: found {outside[column][0]}, wanted a fraction from 0 to 1")
    own = listed(params["projector"]["layers"]), params["projector"]["architecture"]
    layers: dict[str, list[Point]] = {}
    for row in table.iter_rows(named=True):
        found = {
            column: Estimate(column, row[column], row[f"{column}_low"], row[f"{column}_high"])
            for column in NUMBERS
            if row[column] is not None
        }
        at, architecture = row["layers"], row["architecture"]
        layers.setdefault(at, []).append(Point(architecture, (at, architecture) == own, Group(architecture, found)))
    return Sweep(path, table["settings"][0] == settings_of(params), table["seeds"][0], layers)
