"""Same inputs, same bytes; where arithmetic doesn't allow it, a tolerance (docs/reproducibility.md)."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from ruamel.yaml import YAML

from stages.tools.closure import Closure, parsed
from stages.tools.revision import flat
from tests.pipeline import tiny
from tests.pipeline.hermetic import locked, make_sandbox, outputs
from tests.pipeline.test_hermetic import STAGES
from tests.pipeline.warm import Warm, warm

# Largest difference to a run with other batch sizes or thread counts. Gradients and activations: relative to the row's
# norm; all else in nats. Stages that aren't named give the same bytes.
TOLERANCE = {"gradients": 1e-3, "virtual_step": 1e-4, "model": 1e-3, "projector": 1e-3, "evaluation": 1e-4}
CHANGES = [
    *(("batches", stage) for stage in ("gradients", "virtual_step")),  # all others never see the engine's batches
    *(("threads", stage) for stage in STAGES),
]


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A python that orders sets of strings in another way."""
    with warm(tmp_path_factory.mktemp("warm") / "other", hash_seed=2) as server:
        yield server


def again(
    root: Path, stage: str, python: Warm, folder: Path, batch: int = 0, threads: int = 1
) -> tuple[Path, dict, dict]:
    """Runs a stage on the inputs of the finished repository; returns where, what it wrote before, and what now."""
    name = next(name for name in reversed(locked(root)) if name.split("@")[0] == stage)
    entry = locked(root)[name]
    make_sandbox(root, entry, folder)
    if batch:
        smaller(folder, batch)
    python.run(folder, stage, *entry["cmd"].split()[3:], OMP_NUM_THREADS=str(threads))
    return folder, outputs(root, entry), outputs(folder, entry)


def smaller(root: Path, batch: int) -> None:
    """Has the engine work in batches of at most `batch` tokens, if the stage uses it."""
    path = root / "stages/core/neural/engine/batches.py"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        assert "CPU_TOKENS = (512, 4096)" in text and "GROUP = 4" in text
        path.write_text(
            text.replace("(512, 4096)", f"({batch}, {batch})").replace("GROUP = 4", "GROUP = 1"), encoding="utf-8"
        )


@pytest.mark.parametrize("stage", STAGES)
def test_another_folder_another_order_of_sets_same_bytes(
    stage: str, tiny_pipeline: Path, other_python: Warm, tmp_path: Path
):
    _, before, now = again(tiny_pipeline, stage, other_python, tmp_path / "deep er" / "ünder" / "sandbox")
    assert before == now


@pytest.mark.parametrize("stage", STAGES)
def test_twice_in_the_same_folder_same_bytes(stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    """The second run finds the first one's outputs and leftovers, and takes nothing from them."""
    folder, before, now = again(tiny_pipeline, stage, warm_python, tmp_path / "sandbox")
    entry = next(entry for name, entry in reversed(locked(tiny_pipeline).items()) if name.split("@")[0] == stage)
    warm_python.run(folder, stage, *entry["cmd"].split()[3:])
    assert before == now == outputs(folder, entry)


@pytest.mark.parametrize(("change", "stage"), CHANGES)
def test_other_batches_and_threads(change: str, stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    work = {"batch": 16} if change == "batches" else {"threads": 2}
    folder, before, now = again(tiny_pipeline, stage, warm_python, tmp_path / "sandbox", **work)
    assert before.keys() == now.keys()
    if stage in TOLERANCE:
        assert distance(stage, tiny_pipeline, folder) <= TOLERANCE[stage]
    else:
        assert before == now


CLOCKS = {"time", "socket", "getpass", "random", "secrets"}
# Modules that wait for servers or other processes, or note how long a stage took; no stage reads that as data.
MAY_WAIT = {
    "stages.core.labels.client",
    "stages.core.labels.fetch",
    "stages.core.labels.batch",
    "stages.core.neural.distributed",
    "stages.core.stage",
}


def test_no_stage_looks_at_a_clock_or_a_host():
    """A choice that is timed differs from run to run, and with it the last bits of what is computed."""
    closure = Closure(tiny.ROOT)
    params = YAML(typ="safe").load((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"))
    modules = set().union(*(closure.modules(f"stages.{stage}", params) for stage in STAGES)) - MAY_WAIT
    found = {module: CLOCKS & imported(parsed(closure.path(module))) for module in sorted(modules)}
    assert not {module: names for module, names in found.items() if names}


def imported(tree: ast.Module) -> set[str]:
    """The modules that a syntax tree imports."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def distance(stage: str, one: Path, other: Path) -> float:
    """The largest difference between two runs of a stage; asserts that all that isn't a sum of floats is equal."""
    if stage == "gradients":
        a, b = (zarr.open_group(root / f"data/gradients/{tiny.DOMAINS[-1]}.zarr", mode="r") for root in (one, other))
        found = []
        for name in ("gradient", "activation"):
            x, y = np.asarray(a[name]), np.asarray(b[name])
            found.append((np.linalg.norm(x - y, axis=-1) / np.linalg.norm(x, axis=-1)).max())
        for name in ("target_logprob", "answer_logprob"):
            found.append(np.nanmax(np.abs(np.asarray(a[name]) - np.asarray(b[name]))))
        for name in ("prompt_id", "top_token"):
            assert np.array_equal(np.asarray(a[name]), np.asarray(b[name]))
        return float(max(found))
    if stage == "virtual_step":
        a, b = (pl.read_parquet(root / f"data/virtual_step/{tiny.DOMAINS[-1]}.parquet") for root in (one, other))
        floats = [name for name in a.columns if a[name].dtype == pl.Float32]
        exact = ["prompt_id", "layer", "step_size", "continuation_before", "continuation_after"]
        assert a.select(exact).equals(b.select(exact))
        pairs = [(a[name], b[name]) for name in floats]
        pairs += [(a[name].explode(), b[name].explode()) for name in ("up_shifts", "down_shifts")]
        return max(apart(x, y) for x, y in pairs)
    if stage == "evaluation":
        a, b = (pl.read_parquet(root / "data/evaluation/reports.parquet") for root in (one, other))
        floats = [name for name in a.columns if a[name].dtype.is_float()]
        assert a.drop(floats).equals(b.drop(floats))  # every report, word for word
        x, y = (flat(json.loads((root / "data/evaluation/metrics.json").read_text())) for root in (one, other))
        assert x.keys() == y.keys()
        return max([apart(a[name], b[name]) for name in floats] + [abs(x[name] - y[name]) for name in x])
    path = {"model": "data/model/curve.csv", "projector": "data/projector/curve.csv"}[stage]
    a, b = (pl.read_csv(root / path) for root in (one, other))
    assert a["step"].equals(b["step"])
    return max(apart(a[name], b[name]) for name in a.columns)


def apart(x: pl.Series, y: pl.Series) -> float:
    """The largest difference of two columns; where one has no number, the other has none."""
    assert x.is_null().equals(y.is_null())
    differences = (x.cast(pl.Float64) - y.cast(pl.Float64)).abs().drop_nulls().to_numpy()
    return float(differences.max(initial=0.0))
