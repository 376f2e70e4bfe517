"""What the documentation says can be done: every command that README.md or docs/ shows is run by a test, every example
in Python is run, and the figures that are said to follow from measurements do.
"""

import json
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import stages
from stages.core.data.tables import LABELS, read_table
from stages.tools.dependencies import differences
from tests.benchmarks.engine import OURS, report
from tests.benchmarks.work import SIZES, at_the_peak, draw, marks, needed
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.pipeline.warm import Warm
from tests.tools.documented import blocks

PAGES = [tiny.ROOT / "README.md", *sorted((tiny.ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(make|gradaware|python|dvc|git|torchrun|pip|hf|\.) .*")
IN_TWO_COMMANDS = "tests/test_docs.py::test_a_table_becomes_a_row_of_the_report_in_two_commands"
OTHERS = "tests/test_docs.py::test_commands_that_no_other_test_runs"
CLUSTER = "tests/test_docs.py::test_a_cluster_writes_the_same_bytes_and_dvc_takes_them"
SHARING, EXPERIMENTS = "tests/pipeline/test_sharing.py", "tests/pipeline/test_experiments.py"
RUN_BY = {
    "make repro": IN_TWO_COMMANDS,
    "make deps": IN_TWO_COMMANDS,
    "make leave-one-out": OTHERS,
    "make real-step": OTHERS,
    "make soft-prompts": "tests/tools/test_soft_prompts.py::test_make_soft_prompts_writes_a_row_for_every_behaviour",
    "make free-words": "tests/tools/test_free_words.py::test_make_free_words_scores_every_text_twice_the_same",
    "make suppress": "tests/tools/test_suppress.py::test_make_suppress_writes_a_row_for_every_way_and_step",
    "make concepts": "tests/tools/test_concepts.py::test_make_concepts_measures_every_dictionary",
    "dvc status stages/sweeps/dvc.yaml": f"{EXPERIMENTS}::stale",
    "dvc metrics show": OTHERS,
    "gradaware describe": "tests/tools/test_describe.py::test_the_documented_commands_run",
    "gradaware audit": "tests/tools/test_audit.py::test_the_documented_commands_run",
    "gradaware diff": "tests/tools/test_diff.py::test_the_documented_commands_run",
    "gradaware import-facts": IN_TWO_COMMANDS,
    "gradaware preset": "tests/tools/test_preset.py::test_the_documented_commands_run",
    "python -m stages.tools.real_step": (
        "tests/tools/test_real_step.py::test_the_command_writes_metrics_and_a_curve_twice_the_same"
    ),
    "python -m stages.tools.suppress": (
        "tests/tools/test_suppress.py::test_make_suppress_writes_a_row_for_every_way_and_step"
    ),
    "python -m stages.tools.concepts": ("tests/tools/test_concepts.py::test_make_concepts_measures_every_dictionary"),
    "python -m stages.tools.soft_prompts": (
        "tests/tools/test_soft_prompts.py::test_make_soft_prompts_writes_a_row_for_every_behaviour"
    ),
    "python -m stages.tools.review": "tests/pipeline/test_review.py::test_nothing_changed",
    "python -m stages.tools.record": "tests/pipeline/test_review.py::recorded",
    "python -m stages.tools.dependencies": "tests/tools/test_dependencies.py::check",
    "python -m stages.labels geography --dry-run": "tests/test_labels.py::test_dry_run_writes_nothing",
    "python -m stages.labels geography": "tests/test_docs.py::test_the_teacher_of_the_docs_labels",
    "python -m stages.evaluation": "tests/test_docs.py::test_the_control_of_the_docs_is_evaluated_and_shown",
    "python -m stages.peers": "tests/test_peers.py::other",
    "python -m stages.model": "tests/test_docs.py::test_a_hub_model_that_is_out_of_reach_is_said",
    "python -m stages.<stage> --help": "tests/tools/test_help.py::test_help_shows_an_example",
    "torchrun --nnodes 2": CLUSTER,
    "dvc commit --force": CLUSTER,
    "make sweep": f"{EXPERIMENTS}::test_sweeps_are_stages_run_once_and_shown_on_the_page",
    "dvc plots show data/real_step": "tests/tools/test_real_step_plot.py::plot",
    "dvc metrics diff": f"{EXPERIMENTS}::test_params_can_be_set_and_results_compared",
    "dvc plots diff": f"{EXPERIMENTS}::test_params_can_be_set_and_results_compared",
    "dvc exp run": f"{EXPERIMENTS}::test_params_can_be_set_and_results_compared",
    "dvc exp show": f"{EXPERIMENTS}::shown",
    "dvc repro": "tests/pipeline/tiny.py::reproduce",
    "dvc pull": f"{SHARING}::test_clone_pull_repro_runs_nothing",
    "dvc push": f"{SHARING}::shared",
    "dvc remote modify share verify": f"{SHARING}::test_a_corrupted_object_on_the_remote",
    "dvc remote": "tests/pipeline/remotes.py::add",
    "git clone": f"{SHARING}::clone",
    "git commit": "tests/pipeline/tiny.py::save",
    "python -m stages.tools.judge": "tests/labellers/test_judge.py::test_it_judges_what_the_pipeline_s_model_wrote",
    "python -m tests.benchmarks.gpu": "tests/test_devices.py::test_the_benchmark_for_gpus_runs_without_one",
    "git checkout": f"{SHARING}::test_a_merge_conflict_in_the_lock_file",
}
"""How a command begins, and the test (or what tests call or stand on) that runs it."""
NOT_RUN = {
    "python -m tests.benchmarks.audit": "it measures a finished run of the defaults; a test compares its figures",
    "python -m tests.benchmarks.diff": "it measures a finished run of the defaults; a test compares its figures",
    "make test": "it is what runs this",
    "make bench": "it takes minutes and installs other people's tools; tests/core/engine runs its parts",
    ". .venv/bin/activate": "the tests have an environment of their own",
    "git push": "it needs a server of yours",
    "hf auth login": "it needs an account",
}


def commands(page: Path) -> list[str]:
    """The commands of a page: in shell blocks and blocks of no language, in indented blocks, and inline."""
    text, found = page.read_text(encoding="utf-8"), []
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for language, block in fenced.findall(text):
        found += block.replace("\\\n", " ").splitlines() if language in ("", "sh") else []
    prose = fenced.sub("", text)
    found += [line.removeprefix("    ") for line in prose.splitlines() if line.startswith("    ")]
    found += re.findall(r"`([^`]+)`", " ".join(prose.split()))
    parts = [" ".join(part.split()) for line in found for part in line.partition(" #")[0].split(" && ")]
    return [part for part in parts if COMMAND.fullmatch(part)]


def test_every_documented_command_is_run_by_a_test():
    shown = {command: page.name for page in PAGES for command in commands(page)}
    assert len(shown) > 30
    known = (*RUN_BY, *NOT_RUN)
    lost = {command: page for command, page in shown.items() if not command.startswith(known)}
    assert not lost, "no test runs these: run them in one, and name it in RUN_BY"


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_what_runs_a_command_is_there(test: str):
    path, _, name = test.partition("::")
    assert re.search(rf"^ *def {name}\(", (tiny.ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_a_table_becomes_a_row_of_the_report_in_two_commands(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    shutil.copy(tiny.ROOT / "Makefile", root)
    tiny.edit_params(root, projector__seeds=[0])
    tools = 'gradaware() { python -m stages.tools.cli "$@"; }; make() { command make -o .venv/.built "$@"; }'
    (block,) = blocks("adding-a-domain.md")
    done = tiny.command(root, "bash", "-c", "\n".join(["set -e", tools, block]), warm=warm_python)
    assert "1 the prompt names the answer: Portrait of Whistler → Whistler" in done.stdout
    reports = pl.read_parquet(root / "data/evaluation/reports.parquet")
    assert "artworks" in reports["gradient_domain"].to_list()
    assert "artworks" in (root / "data/report/index.html").read_text(encoding="utf-8")
    assert not differences(root, write=False)
    assert (root / "docs/results/metrics.json").is_file()


def test_commands_that_no_other_test_runs(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    assert "decoupling.domain_accuracy" in tiny.command(root, "dvc", "metrics", "show").stdout
    tiny.declare_sweeps(root)
    tiny.command(root, "make", "-o", ".venv/.built", "leave-one-out", warm=warm_python)
    left = pl.read_csv(root / "data/sweep/leave_one_out.csv")
    assert left["name"].to_list() == list(tiny.DOMAINS) and left["domain_accuracy"].is_not_null().all()
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert "on those of the other 1." in page and "Made with other settings" not in page
    tiny.command(root, "make", "-o", ".venv/.built", "real-step", warm=warm_python)
    assert json.loads((root / "data/real_step/metrics.json").read_text(encoding="utf-8"))["samples"] > 2


def example(number: int) -> str:
    """A Python block of docs/extending.md."""
    return blocks("extending.md", "python")[number]


def test_the_teacher_of_the_docs_labels(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    (root / "stages/labellers/first_token.py").write_text(example(0), encoding="utf-8")
    tiny.edit_params(root, labels__backend="first_token")
    said = warm_python.run(root, "labels", "geography")
    assert "labels by first_token, 0 quarantined" in said
    labels = read_table(root / "data/labels/geography.parquet", LABELS)
    assert set(labels["teacher"]) == {"first_token"}
    assert len(labels.filter(labels["moved_to"] != "")) > len(labels) / 2
    differences(root, write=True)
    assert "stages/labellers/first_token.py" in (root / "dvc.yaml").read_text(encoding="utf-8")


def test_the_control_of_the_docs_is_evaluated_and_shown(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    path = root / "stages/core/evaluate/conditions.py"
    before, line, after = path.read_text(encoding="utf-8").partition("CONDITIONS = (")
    opening, _, rest = (line + after).partition("\n")
    path.write_text(f"{before}{example(1)}\n\n{opening}\n    {example(2).strip()},\n{rest}", encoding="utf-8")
    warm_python.run(root, "evaluation")
    metrics = json.loads((root / "data/evaluation/metrics.json").read_text(encoding="utf-8"))
    assert metrics["controls"]["halved"]["reports"] > 0
    warm_python.run(root, "report")
    assert "halved" in (root / "data/report/index.html").read_text(encoding="utf-8")


def test_a_family_is_taken_or_refused_as_the_docs_say(capsys: pytest.CaptureFixture[str]):
    exec(example(3), {})
    assert capsys.readouterr().out == "StableLmForCausalLM 4 32\n"
    with pytest.raises(ValueError, match="MambaForCausalLM: found a cache of 0 layers"):
        exec(example(3).replace("stablelm", "mamba"), {})


@pytest.mark.parametrize("page", ["concepts.md", "data.md", "describe.md", "watching.md"])
def test_examples_in_python_run_in_a_finished_repository(
    page: str, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tiny.copied(tiny_pipeline, tmp_path / "repository"))
    monkeypatch.setitem(sys.modules, "gradaware", stages)  # as which this tree is installed
    found = blocks(page, "python")
    assert found
    for block in found:
        names: dict[str, Any] = {}
        exec(block.replace("gradaware.core", "stages.core"), names)  # imported twice, modules would be two


def test_a_hub_model_that_is_out_of_reach_is_said(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.edit_params(root, model__source="Qwen/Qwen3-4B-Instruct-2507")
    log = tmp_path / "log"
    assert warm_python.start(root, "model", output=log, HF_HUB_OFFLINE="1").wait() == 1
    assert "error: params.yaml: model.source: 'Qwen/Qwen3-4B-Instruct-2507' is no local folder" in log.read_text()


def test_a_cluster_writes_the_same_bytes_and_dvc_takes_them(tiny_pipeline: Path, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    store = root / "data/gradients/geography.zarr"
    before = files(store)
    run, commit = (block.strip() for block in blocks("scale.md")[1:])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.rmtree(store)
    here = run.replace("--nnodes 2 --nproc-per-node 8", "--nnodes 1 --nproc-per-node 2")
    assert here != run
    tiny.command(root, "bash", "-c", here.replace("HOST:PORT", f"127.0.0.1:{port}"))
    assert files(store) == before
    tiny.command(root, "bash", "-c", commit)
    assert "up to date" in tiny.command(root, "dvc", "status", "gradients@geography").stdout


def test_figures_at_scale_follow_from_the_benchmarks_results():
    text = (tiny.ROOT / "docs/scale.md").read_text(encoding="utf-8")
    for start, size, key in (
        ("| pocket,", "pocket", "gradient@2"),
        ("| S,", "S", "gradient@5"),
        ("| M,", "M", "gradient@13"),
    ):
        path = tiny.ROOT / f"tests/benchmarks/results/engine-{size}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["ours fp32"]
        (row,) = (line for line in text.splitlines() if line.startswith(start))
        said = [float(cell) for cell in row.split("|")[2:6]]
        for rate, shown, hours in zip((found[key], found["gradient + 5 steps"]), said[::2], said[1::2], strict=True):
            np.testing.assert_allclose([shown, hours], [rate, 1e6 / rate / 3600], rtol=0.06)


RESULTS = tiny.ROOT / "tests/benchmarks/results"


def test_cost_by_number_of_samples_is_what_the_benchmark_found():
    found = json.loads((RESULTS / "scaling-pocket.json").read_text(encoding="utf-8"))["samples"]
    rates = [f"{row['samples a second']:.0f}" for row in found.values()]
    counts = [f"{int(count):,}".replace(",", " ") for count in found]

    def listed(values: list[str]) -> str:
        return f"{', '.join(values[:-1])} and {values[-1]}"

    text = " ".join((tiny.ROOT / "docs/scale.md").read_text(encoding="utf-8").split())
    assert f"Cost is linear: {listed(rates)} a second at {listed(counts)} samples" in text


def test_arithmetic_at_scale_is_what_nobody_can_do_without():
    text = " ".join((tiny.ROOT / "docs/scale.md").read_text(encoding="utf-8").split())
    found = [sum(needed(size, draw(size, 4096), SIZES[size][1] * 2 // 3, 0)) / 1e12 for size in ("4B", "8B")]
    assert f"{found[0]:.2f} TFLOP a gradient at 4 billion parameters and {found[1]:.2f} at 8" in text


@pytest.mark.parametrize("size", ["pocket", "S", "M"])
def test_ceilings_follow_from_the_rates_and_peaks_of_a_run(size: str):
    written = (RESULTS / f"engine-{size}.json").read_text(encoding="utf-8")
    found = json.loads(written)
    at_the_peak(found, OURS)
    assert found == json.loads(written)
    assert (RESULTS / f"engine-{size}.md").read_text(encoding="utf-8") == report(found)


def test_ceilings_in_the_results_words_are_those_of_their_tables():
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    for row, key in (("that, over the naive", "gradient@{}"), ("the ceiling of gradient + five", "gradient + 5 steps")):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row}"))
        for size, said in zip(("S", "M"), line.split("|")[2:4], strict=True):
            found, name = json.loads((RESULTS / f"engine-{size}.json").read_bytes()), key.format(marks(size)[1])
            assert said.strip() == f"{found['ours fp32'][f'{name}, at the peak'] / found['naive'][name]:.1f}x"
