"""Tables that a tool writes, row by row, each with a page about it."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from ..core.page.prose import HERE
from ..core.run.errors import InputError
from ..core.run.files import replacing
from .template import filled_in


def check_output(output: Path) -> None:
    """Checks a table's name before anything is computed.

    Raises:
        InputError: it ends with neither .jsonl nor .parquet.
    """
    if output.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"--output: found {output}, wanted a name that ends with .jsonl or .parquet")


def write_rows(table: pl.DataFrame, output: Path, page: str, values: Mapping[str, Any]) -> None:
    """Writes a table, and a page about it to the same name with .html; `page`: its template, `values`: what it says."""
    written = BytesIO()
    (table.write_parquet if output.suffix == ".parquet" else table.write_ndjson)(written)
    text = filled_in(page, style=Markup((HERE / "page.css").read_text(encoding="utf-8")), **values)
    for path, content in ((output, written.getvalue()), (output.with_suffix(".html"), text.encode())):
        with replacing(path) as partial:
            partial.write_bytes(content)
