"""Columns of the tables that pass between stages, and functions that read and write such tables.

All tables are Parquet, written by polars; a row's identity is `prompt_id`, a hash of what defines it.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from ..run.errors import InputError
from ..run.files import replacing

ROW = "row"
PROMPTS = {
    "prompt_id": pl.String,
    "domain": pl.String,
    "relation": pl.String,
    "subject": pl.String,
    "template": pl.String,
    "prompt": pl.String,
    "answer": pl.String,  # what the model is taken to say; null for corrections, where only the model knows
    "target": pl.String,
    "kind": pl.String,  # counterfactual | correction | row (of people's own data, without subject and answer)
    "split": pl.String,  # train | validation | test
    "held_out": pl.String,  # none | target | answer | kind | subject | template
}
VIRTUAL_STEP = {
    "prompt_id": pl.String,
    "layer": pl.Int32,
    "step_size": pl.Float32,  # fraction of the residual norm
    "up_tokens": pl.List(pl.String),
    "up_shifts": pl.List(pl.Float32),  # nats, largest first
    "down_tokens": pl.List(pl.String),
    "down_shifts": pl.List(pl.Float32),  # nats, most negative first
    "target_logprob_before": pl.Float32,  # nats, first target token
    "target_logprob_after": pl.Float32,
    "answer_logprob_before": pl.Float32,  # null where the answer is
    "answer_logprob_after": pl.Float32,
    "target_rank": pl.Int32,  # of the first target token after the step, 1 is the top
    "kl": pl.Float32,  # KL(after || before), nats
    "continuation_before": pl.String,
    "continuation_after": pl.String,
}
LABELS = {
    "prompt_id": pl.String,
    "summary": pl.String,
    "moved_from": pl.String,
    "moved_to": pl.String,
    "domain": pl.String,
    "confidence": pl.Float32,  # 0 to 1
    "teacher": pl.String,
}

Schema = Mapping[str, Any]


def write_table(path: Path, table: pl.DataFrame, schema: Schema) -> None:
    """Writes `table` with exactly the schema's columns, types and order; the file appears whole or not at all."""
    assert set(table.columns) == set(schema), f"{path}: columns {table.columns} against {list(schema)}"
    with replacing(path) as partial:
        write_parquet(partial, table.select(pl.col(name).cast(kind) for name, kind in schema.items()))


def write_parquet(path: Path, table: pl.DataFrame) -> None:
    """Writes a table as it is; through memory, so that a full disk is the system's error and not one of polars' own."""
    buffer = BytesIO()
    table.write_parquet(buffer)
    path.write_bytes(buffer.getvalue())


def read_table(path: Path, schema: Schema) -> pl.DataFrame:
    """The schema's columns of the table at `path`, checked.

    Raises:
        InputError: the file is missing or unreadable, a column is missing or of another type, a float is NaN.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        table = pl.read_parquet(path, columns=[name for name in pl.read_parquet_schema(path) if name in schema])
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); delete it and run dvc repro") from error
    for name, kind in schema.items():
        if table.schema.get(name) != kind:
            found = table.schema.get(name, "no such column")
            raise InputError(f"{path}: column {name}: found {found}, wanted {kind}; rerun the stage that writes it")
    for name in table.columns:
        if table.schema[name].is_float() and table[name].is_nan().any():
            row = table[name].is_nan().arg_max()
            raise InputError(f"{path}: column {name}, row {row}: NaN, wanted a number; rerun the stage that writes it")
    return table
