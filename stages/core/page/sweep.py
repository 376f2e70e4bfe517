"""Sweeps: tables data/sweep/<name>.csv of other projectors, fine-tunings, dictionaries, prompts or words, on the page.

A row is one experiment. `group` and `name` are its words on the page. `changes` is a JSON object of what it has in
section `projector` of params.yaml, or of settings of its own: every key that differs anywhere in the table, those that
this experiment leaves as they were among them, so that it says the same when params.yaml changes.
`parameters`: how many are trained (empty: not counted). `seeds` are those of the projector ("0", or "0+1": reports of
both at once). `settings` is a digest of all else that they depend on.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ..evaluate.estimate import Estimate
from ..run.errors import InputError
from ..run.seeds import digest
from .groups import Group
from .prose import WORDS, entries, spaced
from .tables import read_csv

FOLDER = Path("data/sweep")
LADDER, LEAVE_ONE_OUT = "ladder", "leave_one_out"
MADE_BY: dict[str, str] = entries("sweeps.yaml")["commands"]
COLUMNS: dict[str, dict[str, str]] = entries("sweeps.yaml")["columns"]
NUMBERS = {column: (entry["group"], entry["number"]) for column, entry in COLUMNS.items()}
SWEPT_WORDS = WORDS | {column: entry["label"] for column, entry in COLUMNS.items() if "label" in entry}
KEY_WORDS = {"lora": "LoRA on the verbaliser"}
"""Keys whose name does not say enough."""
ENDS = {"": "value", "_low": "low", "_high": "high"}
"""Endings of a number's columns, and the parts of the estimate that they hold."""
TEXTS = ("group", "name", "changes", "seeds", "settings")
BESIDE = ("report", "api", "judge")
"""Sections that no experiment depends on."""


@dataclass(frozen=True)
class Experiment:
    """`group` and `name` for people, `changes` of section `projector` for the pipeline, and the groups of estimates."""

    group: str
    name: str
    changes: dict[str, Any]
    scores: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A row of bars, such as one experiment: its name and its numbers."""

    label: str
    group: Group


@dataclass(frozen=True)
class Sweep:
    """The experiments of one table, by group. `same_settings`: all that they share is as params.yaml has it now.

    `differ`: words for the keys in which they differ. `measures`: the numbers that at least one of them has.
    """

    path: Path
    command: str
    same_settings: bool
    seeds: str
    differ: list[str]
    measures: list[str]
    groups: dict[str, list[Point]]


def settings_of(params: dict[str, Any], changed: Iterable[str]) -> str:
    """The digest of what experiments share that set seeds and the keys `changed`; `params`: all of params.yaml."""
    own = {*changed, "seeds"}
    shared = {name: section for name, section in params.items() if name not in BESIDE}
    shared["projector"] = {key: value for key, value in params["projector"].items() if key not in own}
    return digest(json.dumps(shared, sort_keys=True))[:16]


def table_of(experiments: list[Experiment], params: dict[str, Any], seeds: list[int]) -> pl.DataFrame:
    """The table of experiments that set the same keys; not measured: null."""
    settings, rows = settings_of(params, experiments[0].changes), []
    for one in experiments:
        row: dict[str, Any] = {
            "group": one.group,
            "name": one.name,
            "changes": json.dumps(one.changes, separators=(",", ":")),
            "seeds": "+".join(map(str, seeds)),
            "settings": settings,
            "parameters": getattr(one.scores.get("parameters"), "value", None),
        }
        for column, (group, name) in NUMBERS.items():
            found = one.scores.get(group, {}).get(name)
            row |= {f"{column}{end}": getattr(found, part, None) for end, part in ENDS.items()}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def read_sweep(name: str, params: dict[str, Any]) -> Sweep:
    """Reads and checks a table.

    Raises:
        InputError: no command makes it; it is missing or unreadable, has no rows, a row twice, rows of several
            settings or seeds, rows that change different keys, or a number that is no fraction.
    """
    if name not in MADE_BY:
        raise InputError(f"params.yaml: report.sweeps: found {name}, wanted some of {', '.join(MADE_BY)}")
    path, command = FOLDER / f"{name}.csv", MADE_BY[name]
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, but params.yaml: report.sweeps names it; run {command}, or take the name out"
        )
    again = f"run {command} again"
    columns = [f"{column}{end}" for column in NUMBERS for end in ENDS]
    table = read_csv(path, TEXTS, ("parameters",), columns, [["group", "name"], ["changes"]], again)
    if table.is_empty():
        raise InputError(f"{path}: (whole file): no rows, wanted one an experiment; {again}")
    for column in ("settings", "seeds"):
        if table[column].n_unique() > 1:
            raise InputError(f"{path}: column {column}: found {table[column].n_unique()} values, wanted one; {again}")
    changes = [parsed(path, text, again) for text in table["changes"]]
    keys = list(changes[0])
    if different := [one for one in changes if set(one) != set(keys)]:
        found = ", ".join(different[0])
        raise InputError(f"{path}: column changes: found keys {found}, wanted {', '.join(keys)} in each row; {again}")
    groups: dict[str, list[Point]] = {}
    for row, changed in zip(table.iter_rows(named=True), changes, strict=True):
        numbers = {
            column: Estimate(row[column], row[f"{column}_low"], row[f"{column}_high"])
            for column in NUMBERS
            if row[column] is not None
        }
        current = name == LADDER and all(params["projector"].get(key, False) == value for key, value in changed.items())
        count = "" if row["parameters"] is None else f", {row['parameters']:,} trained parameters"
        label = spaced(row["name"]) + count + ", as on this page" * current
        groups.setdefault(row["group"], []).append(Point(label, Group(row["name"], numbers)))
    return Sweep(
        path,
        command,
        same_settings=table["settings"][0] == settings_of(params, keys),
        seeds=table["seeds"][0],
        differ=[KEY_WORDS.get(key, spaced(key)) for key in keys if any(one[key] != changes[0][key] for one in changes)],
        measures=[column for column in NUMBERS if table[column].null_count() < len(table)],
        groups=groups,
    )


def parsed(path: Path, changes: str, again: str) -> dict[str, Any]:
    """The keys and values in a cell of column `changes`."""
    try:
        found = json.loads(changes)
    except (TypeError, json.JSONDecodeError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: column changes: found {changes}, wanted a JSON object of keys of section projector; {again}"
        )
    return found
