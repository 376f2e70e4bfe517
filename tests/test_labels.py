"""The labels stage: what it writes, what it refuses, what it never sees or imports."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.tables import LABELS, read_table
from stages.labels import main
from tests.labellers import world

ROOT = Path(__file__).parents[1]
OUTPUT = Path("data/labels/geography.parquet")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_one_label_a_prompt_and_one_line_of_result(capsys: pytest.CaptureFixture[str]):
    world.write_world(20)
    main(["geography"])
    table = read_table(OUTPUT, LABELS)
    assert table["prompt_id"].to_list() == [f"geography-{number:05d}" for number in range(20)]
    assert set(table["teacher"]) == {"local"}
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "20 labels by local, 0 quarantined" in out and not err
    assert "target 1.000, answer 1.000, domain 1.000" in out


def test_what_would_give_the_label_away_changes_no_byte():
    world.write_world(20)
    main(["geography"])
    first = OUTPUT.read_bytes()
    rows = pl.read_parquet("data/virtual_step/geography.parquet")
    forbidden = [name for name in rows.columns if name.startswith(("target_", "answer_"))]
    assert len(forbidden) == 5
    other = rows.with_columns(pl.col(name) * 3 + 7 for name in forbidden)
    world.write_shifts("geography", other.to_dicts())
    world.write_prompts("geography", [world.correction(n)[1] | {"target": "X", "answer": "Y"} for n in range(20)])
    main(["geography"])
    assert OUTPUT.read_bytes() == first
    sees = rows.with_columns(continuation_after=pl.lit("Guinea ."))
    world.write_shifts("geography", sees.to_dicts())
    main(["geography"])
    assert OUTPUT.read_bytes() != first  # the test can fail


def test_rows_in_another_order_give_the_same_labels():
    world.write_world(20)
    main(["geography"])
    first = read_table(OUTPUT, LABELS)
    rows = pl.read_parquet("data/virtual_step/geography.parquet")
    world.write_shifts("geography", rows.sample(fraction=1, shuffle=True, seed=3).to_dicts())
    main(["geography"])
    assert read_table(OUTPUT, LABELS).sort("prompt_id").equals(first)


def test_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]):
    world.write_world(3)
    main(["geography", "--dry-run"])
    assert capsys.readouterr().out == "geography: local: 3 rows, 0 calls, 0 tokens, 0 USD\n"
    assert not Path("data/labels").exists() and not Path(".cache").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "nobody"}, r"labels.backend: found 'nobody', wanted one of local, openai"),
        ({"teacher_sees": "all"}, r"params.yaml: labels.teacher_sees: .*'shift'.*found 'all'"),
        ({"max_quarantined": "few"}, r"params.yaml: labels.max_quarantined"),
        ({"misspelt": 1}, r"params.yaml: labels.misspelt: unknown key"),
    ],
)
def test_wrong_params_are_named(change: dict[str, Any], message: str):
    world.write_world(3, **change)
    with pytest.raises(ValueError, match=message):
        main(["geography"])
    assert not OUTPUT.exists()


def test_a_missing_section_an_unknown_domain_and_a_missing_table_are_named():
    world.write_world(3)
    with pytest.raises(ValueError, match=r"params.yaml: domains: unknown domain 'sport': .*geography"):
        main(["sport"])
    with pytest.raises(ValueError, match=r"data/virtual_step/astronomy.parquet: no such file"):
        main(["astronomy"])
    world.write_params(world.params(lexicon=["geography", "sport"]))
    with pytest.raises(ValueError, match=r"params.yaml: labels.lexicon: unknown domain 'sport'"):
        main(["geography"])
    content = world.params()
    del content["labels"]
    world.write_params(content)
    with pytest.raises(ValueError, match=r"params.yaml: labels: missing"):
        main(["geography"])


HEAVY = {"torch", "transformers", "zarr", "numcodecs"}


def run_python(code: str, folder: Path) -> float:
    """Runs code in a process of its own; returns its seconds of processor time, which neighbours leave alone."""
    start = os.times()
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    end = os.times()
    return end.children_user + end.children_system - start.children_user - start.children_system


def test_the_stage_starts_at_once(tmp_path: Path):
    world.write_world(3)
    code = (
        "import sys; from stages.labels import main; main(['geography']);"
        f"heavy = {HEAVY | {'openai'}} & set(sys.modules); assert not heavy, heavy"
    )
    assert min(run_python(code, tmp_path) for _ in range(2)) < 2


def test_nothing_of_labelling_imports_torch(tmp_path: Path):
    folders = ("stages/core/api", "stages/core/labels", "stages/labellers", "stages/generators")
    modules = [f"{folder.replace('/', '.')}.{path.stem}" for folder in folders for path in (ROOT / folder).glob("*.py")]
    assert "stages.core.api.client" in modules and "stages.labellers.openai" in modules
    names = ", ".join(module for module in modules if not module.endswith("__init__"))
    run_python(f"import sys, {names}; heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy", tmp_path)


def test_a_refusal_is_one_line_and_an_exit_code(tmp_path: Path):
    world.write_world(3)
    run = subprocess.run(
        [sys.executable, "-m", "stages.labels", "sport"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1 and run.stderr.startswith("error: params.yaml: domains") and run.stderr.count("\n") == 1
