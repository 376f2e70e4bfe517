"""CSV tables that the page is made from."""

from pathlib import Path

import polars as pl

from ..run.errors import InputError


def read_csv(path: Path, *texts: str, numbers: tuple[str, ...]) -> pl.DataFrame:
    """A CSV table with these columns, texts and finite numbers (which may be empty)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        table = pl.read_csv(path, schema_overrides=dict.fromkeys(texts, pl.String))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable CSV file ({error}); delete it and run dvc repro") from error
    for name in (*texts, *numbers):
        if name not in table.columns:
            raise InputError(f"{path}: column {name}: missing: wanted this column; rerun the stage that writes it")
    empty = [name for name in numbers if table[name].null_count() == len(table)]
    table = table.cast(dict.fromkeys(empty, pl.Float64))  # a column of nothing has no type of its own
    for name in numbers:
        if not table[name].dtype.is_numeric() or not table[name].drop_nulls().is_finite().all():
            raise InputError(f"{path}: column {name}: wanted finite numbers; rerun the stage that writes it")
    return table
