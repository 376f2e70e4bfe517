"""Tables are written whole and refused when they are not what they should be."""

from pathlib import Path

import polars as pl
import pytest

from stages.core.data.tables import LABELS, read_table, write_table


def labels(**columns: object) -> pl.DataFrame:
    row = {
        "prompt_id": "a", "summary": "s", "moved_from": "Aida", "moved_to": "Carmen", "domain": "music",
        "confidence": 0.5, "teacher": "local",
    }  # fmt: skip
    return pl.DataFrame([row | columns] * 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "music.parquet"
    write_table(path, labels(), LABELS)
    return path


def test_columns_come_back_in_order_and_type_and_twice_the_same_bytes(path: Path):
    assert read_table(path, LABELS).schema == pl.Schema(LABELS)
    first = path.read_bytes()
    write_table(path, labels().select(sorted(LABELS)), LABELS)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (labels().drop("domain"), "column domain: found no such column, wanted String; rerun the stage"),
        (labels(confidence="0.5"), "column confidence: found String, wanted Float32"),
        (labels(confidence=float("nan")).cast({"confidence": pl.Float32}), "column confidence, row 0: NaN, wanted"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_by_column(path: Path, table: pl.DataFrame, message: str):
    table.write_parquet(path)
    with pytest.raises(ValueError, match=f"music.parquet: {message}"):
        read_table(path, LABELS)


def test_a_missing_or_truncated_file_is_named(path: Path):
    content = path.read_bytes()
    for end in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"music.parquet: not a readable Parquet file .*delete it"):
            read_table(path, LABELS)
    path.unlink()
    with pytest.raises(ValueError, match=r"music.parquet: no such file; run the stage that writes it"):
        read_table(path, LABELS)
