"""What the report page is made from: read whole, checked, and every complaint names file and key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ..data.tables import read_table
from ..evaluate.estimate import Estimate, flat, from_json
from ..evaluate.table import ANSWERS, REPORTS
from ..run.errors import InputError
from ..run.files import read_json, read_yaml
from ..run.params import PARAMS, Section, read_sections
from .prose import MEASURES, entries
from .section import Report
from .sweep import NUMBERS, Sweep, read_sweep
from .tables import read_csv

METRICS = Path("data/evaluation/metrics.json")
REPORTS_TABLE = Path("data/evaluation/reports.parquet")
ANSWERS_TABLE = Path("data/evaluation/answers.parquet")
GROUNDING = Path("data/grounding/metrics.json")
GRID = Path("data/evaluation/grid.csv")
PROJECTOR_CURVE = Path("data/projector/curve.csv")
MODEL_CURVE = Path("data/model/curve.csv")
MODEL = Path("data/model/model.json")
CARD = Path("data/projector/projector.json")
CELL = ("gradient_domain", "host_domain")
"""The columns of grid.csv that name a row; the rest are the number of reports and fractions of them."""
UNSHOWN = ("api",)
"""Sections of params.yaml that decide nothing of what the page tells: a budget that is raised leaves it as it is."""
SEEDED = ("decoupling", "held_out_target")
"""Groups whose scores are also there for each projector seed."""


class Sections(Section):
    """What the stage `report` reads of params.yaml; it shows the rest as it stands."""

    report: Report


@dataclass(frozen=True)
class Inputs:
    """The checked inputs.

    `params`: the sections of params.yaml that the page shows. `projector_curve`: of the first seed. `model_curve`: None
    for Hub models.
    """

    metrics: dict[str, Any]
    reports: pl.DataFrame
    answers: pl.DataFrame
    grid: pl.DataFrame
    projector_curve: pl.DataFrame
    model_curve: pl.DataFrame | None
    model: dict[str, Any]
    card: dict[str, Any]
    params: dict[str, Any]
    settings: Report
    sweeps: list[Sweep]


def read_inputs() -> Inputs:
    """Reads every input of the page.

    Raises:
        InputError: a file is missing, unreadable or incomplete, or a number can't be right; names file and key.
    """
    params, settings = read_params(), read_sections(Sections).report
    curves = read_curve(PROJECTOR_CURVE, "seed", "train_loss", "validation_loss")
    return Inputs(
        metrics=read_metrics()
        | read_groups(GROUNDING, "grounding", "acting", "swapped", "layers", "negatives", "real")[0],
        reports=filled(REPORTS_TABLE, REPORTS, {"host_prompt_id", "host", "answer", "confidence"}),
        answers=filled(ANSWERS_TABLE, ANSWERS, {"world"}),
        grid=read_csv(GRID, CELL, numbers=["reports"], fractions=MEASURES, once=[CELL]),
        projector_curve=curves.filter(pl.col("seed") == pl.col("seed").first()),
        model_curve=read_curve(MODEL_CURVE, "facts", "slots") if MODEL_CURVE.exists() else None,
        model=read_object(MODEL, "source", "id", "versions"),
        card=read_object(CARD, "architecture", "layers", "lora_on_the_verbaliser"),
        params=params,
        settings=settings,
        sweeps=[read_sweep(name, params) for name in settings.sweeps],
    )


def read_params() -> dict[str, Any]:
    """All sections of params.yaml but UNSHOWN: the page shows them as they stand."""
    return {name: section for name, section in read_yaml(PARAMS).items() if name not in UNSHOWN}


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object that has at least these keys."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: (whole file): found {type(found).__name__}, wanted an object")
    for key in keys:
        if key not in found:
            raise InputError(f"{path}: {key}: missing: wanted this key; rerun the stage that writes it")
    return found


def read_groups(path: Path, *keys: str) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """A metrics.json with at least these groups of estimates and finite numbers; and all of them by dotted key."""
    found, again = read_object(path, *keys), f"rerun the stage {path.parent.name}"
    for key in keys:
        if not isinstance(found[key], dict):
            raise InputError(f"{path}: {key}: found {found[key]!r}, wanted a group of numbers; {again}")
    try:
        return found, flat(from_json(found))
    except InputError as error:
        raise InputError(f"{path}: {error}; {again}") from error


def read_metrics() -> dict[str, Any]:
    """The evaluation's metrics.json: groups of estimates and numbers, with what metrics.yaml needs at the least.

    Raises:
        InputError: a group or number is missing or not finite, or a share, an end of its interval or its chance is no
            fraction; names the key.
    """
    again, needs = "rerun the stage evaluation", entries("metrics.yaml")
    found, numbers = read_groups(METRICS, *needs["needed"])
    of_seeds = [f"{group}_{name}" for group, name in NUMBERS.values() if group in SEEDED and group in found]
    wanted = [f"{key}.{name}" for key, names in needs["needed"].items() for name in names]
    for key in [*wanted, *(f"seeds.{seed}.{name}" for seed in found["seeds"] for name in of_seeds)]:
        if key not in numbers:
            raise InputError(f"{METRICS}: {key}: missing: wanted a number; {again}")
    for key, one in numbers.items():
        name = key.removesuffix(".spoken").rpartition(".")[2]
        if name.startswith((*MEASURES, *needs["fractions"])) or name.endswith(MEASURES):
            for part in ("value", "low", "high", "chance"):
                number = getattr(one, part)
                if number is not None and not 0 <= number <= 1:
                    where = key if part == "value" else f"{key}.{part}"
                    raise InputError(f"{METRICS}: {where}: found {number!r}, wanted a fraction from 0 to 1; {again}")
    return found


def filled(path: Path, columns: dict[str, Any], may_be_empty: set[str]) -> pl.DataFrame:
    """A table with at least one row, and a value in every cell of the other columns."""
    table, again = read_table(path, columns), "rerun the stage evaluation"
    if table.is_empty():
        raise InputError(f"{path}: (whole file): no rows, wanted some; {again}")
    for name in set(columns) - may_be_empty:
        if table[name].null_count():
            row = table[name].is_null().arg_max()
            raise InputError(f"{path}: column {name}, row {row}: empty, wanted a value; {again}")
    return table


def read_curve(path: Path, *losses: str) -> pl.DataFrame:
    """A training curve, in order of steps; a loss may be empty, where nothing was trained."""
    table = read_csv(path, numbers=["step", *losses]).sort("step")
    for name in losses:
        if table["step"].max() and table[name].null_count() == len(table):
            raise InputError(f"{path}: column {name}: all empty, wanted losses in nats; rerun the stage that writes it")
    return table.cast(dict.fromkeys(losses, pl.Float64))
