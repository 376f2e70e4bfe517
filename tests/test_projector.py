"""What a projector is trained on: the three words of a label, however its teacher phrases them; or no label at all."""

from pathlib import Path

import polars as pl

from stages.core.data.tables import LABELS, read_table, write_table
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.pipeline.warm import Warm


def relabel(root: Path, **columns: pl.Expr) -> None:
    """Replaces columns of every label."""
    for domain in tiny.DOMAINS:
        path = root / f"data/labels/{domain}.parquet"
        labels = read_table(path, LABELS)
        path.unlink()
        write_table(path, labels.with_columns(**columns), LABELS)


def test_no_phrasing_of_labels_reaches_a_weight(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(root, projector__architecture="linear")  # the default trains nothing
    warm_python.run(root, "projector")
    trained = files(root / "data/projector")
    said = pl.col("prompt_id") + pl.lit(": I'd say it leaves ") + pl.col("moved_from")
    relabel(root, summary=said, confidence=1 - pl.col("confidence") / 2, teacher=pl.lit("another"))
    warm_python.run(root, "projector")
    assert files(root / "data/projector") == trained
    relabel(root, moved_to=pl.col("moved_from"), moved_from=pl.col("moved_to"))
    warm_python.run(root, "projector")
    changed = files(root / "data/projector")
    assert {name for name in trained if changed[name] != trained[name]} >= {"seed_0.safetensors", "curve.csv"}


def test_what_learns_from_words_reads_no_label(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(root, projector__architecture="linear", projector__learns_from="words")
    warm_python.run(root, "projector")
    trained = files(root / "data/projector")
    nothing = {name: pl.lit("") for name in ("domain", "moved_to", "moved_from", "summary")}
    relabel(root, **nothing, confidence=pl.lit(0.0))
    warm_python.run(root, "projector")
    assert files(root / "data/projector") == trained
