"""The review of a pull request: what it says, that it needs no data, and the workflow that posts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.core.evaluate.estimate import Estimate
from stages.tools.review import mismatches, noise
from stages.tools.revision import differing
from tests.pipeline import tiny

WORKFLOWS = sorted((tiny.ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def recorded(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished repository with its results in git, as on main."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("recorded") / "repository")
    costs = root / ".cache/costs"
    costs.mkdir(parents=True, exist_ok=True)
    for name, seconds in {"evaluation": 100.0, "grounding": 1.0, "report": 2.0, "labels@music": 30.0}.items():
        (costs / f"{name}.json").write_text(json.dumps({"seconds": seconds}))
    run(root, "record")
    tiny.save(root, "Results")
    return root


@pytest.fixture
def clone(recorded: Path, tmp_path: Path) -> Path:
    """A clean clone without any data, as in continuous integration."""
    tiny.command(tmp_path, "git", "clone", "-q", str(recorded), "clone")
    return tmp_path / "clone"


def run(root: Path, tool: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return tiny.command(root, sys.executable, "-m", f"stages.tools.{tool}", *arguments, check=check)


def review(root: Path, base: str = "origin/main") -> str:
    return run(root, "review", base).stdout


def test_a_section_that_is_emptied_differs():
    old, new = {"peers": {"other": {"seed": 1}}, "api": {"budget": 5.0}}, {"peers": {}, "api": {"budget": 5.0}}
    assert differing(old, new) == {"peers": (..., {}), "peers.other.seed": (1, ...)}


def test_nothing_changed(clone: Path):
    said = review(clone)
    assert said.count("- ok: ") == 3 and "**look**" not in said
    assert "No param differs." in said and "No recorded metric differs." in said and "Nothing would run" in said
    assert not (clone / "data/model").exists()  # nothing was pulled


def test_a_param_and_what_follows_from_it(clone: Path):
    tiny.edit_params(clone, evaluation__seed=7)
    said = review(clone)
    assert "| `evaluation.seed` | `0` | `7` |" in said
    assert "| `evaluation` | param `evaluation.seed` | 1.7 min | - |" in said
    assert "| `report` | param `evaluation.seed` | 2 s | - |" in said
    assert "**3 stages, 1.7 min last time; 0 teacher calls, 0.00 USD.**" in said
    assert "dvc.lock is not fresh: 2 stages see other inputs; run `dvc repro`" in said


def test_code_facts_and_what_reads_their_outputs(clone: Path):
    path = clone / "stages/labellers/local.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# A remark.\n", encoding="utf-8")
    calls = json.loads((clone / "docs/results/labels/music.json").read_text()) | {"calls": 67, "cost_usd": 1.25}
    (clone / "docs/results/labels/music.json").write_text(json.dumps(calls))
    said = review(clone)
    assert "| `labels@music` | `stages/labellers/local.py` modified | 30 s | 67 calls, 1.25 USD |" in said
    assert "| `projector` | if what labels@geography, labels@music writes comes out differently |" in said
    assert "67 teacher calls, 1.25 USD.**" in said
    assert "recorded results are of another run (docs/results/labels/music.json)" in said


def test_metrics_with_intervals(clone: Path):
    path = clone / "docs/results/metrics.json"
    content = json.loads(path.read_text())
    content["decoupling"]["target_accuracy"] |= {"value": 0.5, "low": 0.45, "high": 0.55}
    content["floor"]["target_accuracy"] = {"value": 0.123, "reason": "found 4 entities"}
    path.write_text(json.dumps(content))
    said = review(clone)
    line = next(line for line in said.splitlines() if line.startswith("| `decoupling.target_accuracy` |"))
    assert "0.5 (0.45 to 0.55)" in line and "no interval" in line  # the tiny run has too few entities for one
    assert "other metrics differ</summary>" in said and "| `floor.target_accuracy` |" in said
    assert "found 4 entities" not in said
    assert "recorded results are of another run (docs/results/metrics.json)" in said


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((0.90, 0.88, 0.92), (0.91, 0.89, 0.93), "within noise"),
        ((0.90, 0.88, 0.92), (0.95, 0.94, 0.96), "**beyond noise**"),
        ((0.90, 0.88, 0.92), (0.86, 0.82, 0.90), "within noise"),  # a wide interval explains more
        ((0.90, None, None), (0.95, 0.94, 0.96), "no interval"),
    ],
)
def test_is_it_noise(old: tuple, new: tuple, verdict: str):
    assert noise(Estimate(*old), Estimate(*new)) == verdict


def test_a_domain_more(clone: Path):
    tiny.write_facts(clone, "history", tiny.small_facts("history"))
    tiny.edit_params(clone, domains=[*tiny.DOMAINS, "history"])
    said = review(clone)
    assert "**look**: dvc.yaml differs from what the stages read" in said
    run(clone, "dependencies")
    said = review(clone)
    for stage in ("prompts", "gradients", "virtual_step", "labels"):
        assert f"| `{stage}@history` | is new | not recorded | - |" in said
    assert "| `prompts@music`" not in said


def test_a_lock_merged_by_hand_is_seen(recorded: Path):
    lock = YAML(typ="safe").load((recorded / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert not mismatches(lock)
    next(out for out in lock["labels@music"]["outs"] if out["path"] == "data/labels/music.parquet")["md5"] = "0" * 32
    assert set(mismatches(lock)) == {"projector", "evaluation", "grounding"}
    assert "another `data/labels/music.parquet` than labels@music wrote" in mismatches(lock)["projector"][0]


def test_unknown_base_and_broken_lock_are_one_line(clone: Path):
    done = run(clone, "review", "nowhere", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere: no such revision here")
    path = clone / "dvc.lock"
    path.write_text("<<<<<<< HEAD\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    done = run(clone, "review", check=False)
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: dvc.lock: not YAML")
        and "docs/sharing.md" in done.stderr
    )


def test_the_review_needs_few_packages(clone: Path):
    """What the workflow installs is enough: no torch, no polars."""
    code = "import sys, stages.tools.review; assert not {'torch', 'polars', 'transformers', 'zarr'} & set(sys.modules)"
    tiny.command(clone, sys.executable, "-c", code)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_linted(path: Path):
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    subprocess.run(schema, check=True, capture_output=True)
    subprocess.run(
        ["zizmor", "--offline", "--quiet", "--persona", "regular", str(path)], check=True, capture_output=True
    )


def test_what_the_review_workflow_runs_prints_the_report(clone: Path, tmp_path: Path):
    """The workflow's own lines, but for what installs and posts."""
    content = YAML(typ="safe").load((tiny.ROOT / ".github/workflows/review.yml").read_text(encoding="utf-8"))
    steps = {step.get("name"): step for step in content["jobs"]["review"]["steps"]}
    lines = steps["Write the report"]["run"]
    done = tiny.command(
        clone,
        "bash",
        "-euo",
        "pipefail",
        "-c",
        lines,
        env={"BASE": "main", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")},
    )
    assert done.returncode == 0
    assert "## What this does to the experiment" in (clone / "review.md").read_text(encoding="utf-8")
    assert (tmp_path / "summary").read_text(encoding="utf-8") == (clone / "review.md").read_text(encoding="utf-8")
