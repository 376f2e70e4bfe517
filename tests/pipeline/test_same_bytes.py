"""Same inputs, same bytes; where arithmetic doesn't allow it, a tolerance (docs/reproducibility.md)."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from flatten_dict import flatten
from ruamel.yaml import YAML

from stages.tools.closure import Closure, parsed
from tests.pipeline import tiny
from tests.pipeline.hermetic import locked, make_sandbox, outputs
from tests.pipeline.test_hermetic import STAGES
from tests.pipeline.warm import Warm, warm

# Largest difference to a run with other batch sizes or thread counts. Gradients and activations: relative to the row's
# norm; all else in nats. Stages that aren't named give the same bytes.
TOLERANCE = {
    "gradients": 1e-3,
    "virtual_step": 1e-4,
    "projector": 1e-3,
    "evaluation": 1e-4,
    "grounding": 1e-4,
}
CHANGES = [
    *(("batches", stage) for stage in ("gradients", "virtual_step", "projector", "evaluation", "grounding")),
    *(("threads", stage) for stage in STAGES),
]
EXACT = ("batches", "projector")  # it trains in batches that params.yaml sets, and writes no report


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A python that orders sets of strings in another way."""
    with warm(tmp_path_factory.mktemp("warm") / "other", hash_seed=2) as server:
        yield server


def again(
    root: Path, stage: str, python: Warm, folder: Path, small_batches: bool = False, threads: int = 1
) -> tuple[Path, dict, dict]:
    """Runs a stage on the inputs of the finished repository; returns where, what it wrote before, and what now."""
    name = next(name for name in reversed(locked(root)) if name.split("@")[0] == stage)
    entry = locked(root)[name]
    make_sandbox(root, entry, folder)
    if small_batches:
        tiny.changed(folder, SMALLER)
    python.run(folder, stage, *entry["cmd"].split()[3:], OMP_NUM_THREADS=str(threads))
    return folder, outputs(root, entry), outputs(folder, entry)


# Where the size of batches is set: the engine's in tokens, the reports' in rows.
SMALLER: tiny.Changes = {
    "stages/core/engine/batches.py": (
        ("CPU_TOKENS = (512, 4096)", "CPU_TOKENS = (16, 16)"),
        ("GROUP = 4", "GROUP = 1"),
    ),
    "stages/core/reader/reports.py": (("batch: int = 256", "batch: int = 3"),),
}


@pytest.mark.parametrize("stage", STAGES)
def test_another_folder_another_order_of_sets_same_bytes(
    stage: str, tiny_pipeline: Path, other_python: Warm, tmp_path: Path
):
    _, before, now = again(tiny_pipeline, stage, other_python, tmp_path / "deep er" / "ünder" / "sandbox")
    assert before == now


@pytest.mark.parametrize(("change", "stage"), CHANGES)
def test_other_batches_and_threads(change: str, stage: str, tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    folder, before, now = again(
        tiny_pipeline,
        stage,
        warm_python,
        tmp_path / "sandbox",
        small_batches=change == "batches",
        threads=2 if change == "threads" else 1,
    )
    assert before.keys() == now.keys()
    if stage in TOLERANCE and (change, stage) != EXACT:
        assert distance(stage, tiny_pipeline, folder) <= TOLERANCE[stage]
    else:
        assert before == now


WIDE = {"d_model": 128, "layers": 4, "heads": 4, "steps": 2}
WIDE_DOMAIN = tiny.DOMAINS[-1]


@pytest.fixture(scope="module")
def wide_pipeline(tmp_path_factory: pytest.TempPathFactory, warm_python: Warm) -> Path:
    """A repository up to one domain's virtual steps, with the default model's shape and hardly any training."""
    root = tmp_path_factory.mktemp("wide") / "repository"
    tiny.make_repository(root)
    tiny.edit_params(root, **{f"model__pocket__{key}": value for key, value in WIDE.items()})
    for stage, *arguments in (("model",), ("prompts", WIDE_DOMAIN), ("gradients", WIDE_DOMAIN)):
        warm_python.run(root, stage, *arguments)
    return root


@pytest.mark.parametrize("stage", ["gradients", "virtual_step"])
def test_on_two_threads_twice_same_bytes(stage: str, wide_pipeline: Path, warm_python: Warm):
    """At the tests' width these two stages give the same bytes on one thread as on two, and nothing would be tested; at
    this one virtual_step does not. Trainings: tests/core/model, tests/core/reader.
    """
    entry = {"outs": [{"path": f"data/{stage}"}]}
    found = []
    for _ in range(2):
        warm_python.run(wide_pipeline, stage, WIDE_DOMAIN, OMP_NUM_THREADS="2")
        found.append(outputs(wide_pipeline, entry))
    assert found[0] == found[1] != {}


def test_evaluation_on_two_threads_twice_same_bytes(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    found = [
        again(tiny_pipeline, "evaluation", warm_python, tmp_path / name / "sandbox", threads=2)[2] for name in "ab"
    ]
    assert found[0] == found[1]


CLOCKS = {"time", "socket", "getpass", "random", "secrets"}
# Modules that wait for servers or other processes, or note how long a stage took; no stage reads that as data.
MAY_WAIT = {
    "stages.core.api.client",
    "stages.core.api.converse",
    "stages.core.api.batch",
    "stages.core.model.ranks",
    "stages.core.run.stage",
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
            there = x.any(-1)
            assert np.array_equal(y.any(-1), there)
            found.append((np.linalg.norm(x - y, axis=-1)[there] / np.linalg.norm(x, axis=-1)[there]).max())
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
    if table := {"evaluation": "reports", "grounding": "shares"}.get(stage):
        a, b = (pl.read_parquet(root / f"data/{stage}/{table}.parquet") for root in (one, other))
        floats = [name for name in a.columns if a[name].dtype.is_float()]
        assert a.drop(floats).equals(b.drop(floats))  # every report, word for word
        both = (json.loads((root / f"data/{stage}/metrics.json").read_text()) for root in (one, other))
        x, y = (flatten(each, reducer="dot", keep_empty_types=(dict,)) for each in both)
        numbers = [name for name in x if isinstance(x[name], int | float)]
        assert {name: x[name] for name in x if name not in numbers} == {n: y[n] for n in y if n not in numbers}
        return max([apart(a[name], b[name]) for name in floats] + [abs(x[name] - y[name]) for name in numbers])
    a, b = (pl.read_csv(root / f"data/{stage}/curve.csv") for root in (one, other))
    assert a["step"].equals(b["step"])
    return max(apart(a[name], b[name]) for name in a.columns)


def apart(x: pl.Series, y: pl.Series) -> float:
    """The largest difference of two columns; where one has no number, the other has none."""
    assert x.is_null().equals(y.is_null())
    differences = (x.cast(pl.Float64) - y.cast(pl.Float64)).abs().drop_nulls().to_numpy()
    return float(differences.max(initial=0.0))
