"""CSV tables that the page is made from, read and checked."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ..run.errors import InputError


def read_csv(
    path: Path,
    texts: Sequence[str] = (),
    numbers: Sequence[str] = (),
    fractions: Sequence[str] = (),
    once: Sequence[Sequence[str]] = (),
    again: str = "rerun the stage that writes it",
) -> pl.DataFrame:
    """A CSV table with these columns: texts, finite numbers and fractions from 0 to 1; both may have empty cells.

    Args:
        once: columns whose values together stand in one row only; the first of them name a row in complaints.
        again: what to do about a table that is wrong.

    Raises:
        InputError: the file is missing or unreadable, a column is missing or not of its kind, or a row stands twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        table = pl.read_csv(path, schema_overrides=dict.fromkeys(texts, pl.String))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable CSV file ({error}); delete it and run dvc repro") from error
    for name in (*texts, *numbers, *fractions):
        if name not in table.columns:
            raise InputError(f"{path}: column {name}: missing: wanted this column; {again}")
    for name in (*numbers, *fractions):
        column = table[name].drop_nulls()
        if len(column) and not (column.dtype.is_numeric() and column.is_finite().all()):
            raise InputError(f"{path}: column {name}: wanted finite numbers; {again}")
    table = table.cast(dict.fromkeys(fractions, pl.Float64))
    for name in fractions:
        outside = table.filter(~pl.col(name).is_between(0, 1))
        if len(outside):
            raise InputError(f"{path}: column {name}: found {outside[name][0]}, wanted a fraction from 0 to 1; {again}")
    for key in once:
        twice = table.filter(table.select(key).is_duplicated())
        if len(twice):
            raise InputError(f"{path}: {', '.join(twice.select(once[0]).row(0))}: stands twice; {again}")
    return table
