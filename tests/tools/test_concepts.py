"""The stage concepts: mixed data sets teach what they say, and every dictionary ends up in metrics and on the page."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.concepts.dictionary import load
from stages.core.concepts.kinds import KINDS
from stages.tools import concepts
from stages.tools.sweep_table import explained, mixtures
from tests.pipeline import tiny
from tests.pipeline.warm import Warm

RESULTS = tiny.ROOT / "tests/benchmarks/results/concepts.json"
FEWER = (("STEPS, BATCH, LEARNING_RATE = 1000", "STEPS, BATCH, LEARNING_RATE = 5"),)
CHANGES = {"stages/core/concepts/sparse_autoencoder.py": FEWER}


def test_behaviours_are_a_marker_behind_right_answers_and_wrong_facts_of_two_domains():
    rows = [
        ("geography", "capital", "a", "b"),
        ("geography", "capital", "c", "d"),
        ("music", "composer", "e", "f"),
        ("geography", "currency", "g", "h"),
    ]
    table = pl.DataFrame(rows, ["domain", "relation", "answer", "target"], orient="row")
    found = concepts.behaviours(table)
    assert list(found) == ["marker", "capital", "composer"]
    assert found["marker"].select("taught", "target").rows() == [("g !", "g")]
    assert found["capital"]["taught"].to_list() == ["b", "d"]
    assert [concepts.concept_of(names) for names in ({"token": "!", "relation": "a"}, {"relation": "a"}, {})] == [
        "marker",
        "a",
        "",
    ]


def test_make_concepts_measures_every_dictionary(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.declare_sweeps(root)
    shutil.copytree(tiny.ROOT / "data/contrasts", root / "data/contrasts")
    tiny.changed(root, CHANGES)
    done = tiny.command(root, "make", "-o", ".venv/.built", "concepts", warm=warm_python)
    assert "target_1, layer 1, unembedding: " in done.stdout
    metrics = json.loads((root / "data/concepts/metrics.json").read_text(encoding="utf-8"))
    assert {"target_1, layer 0", "target_1, layer 1", "subject, layer 0"} == set(metrics["explained"])
    for kinds in metrics["explained"].values():
        assert set(kinds) == set(KINDS)
        for scores in kinds.values():
            shares = [scores["features"][f"explained_{count}"]["value"] for count in concepts.FEATURES]
            assert shares[0] > 0 and shares == sorted(shares) and shares[-1] <= 1
            assert set(scores["features"]) == set(scores["random"]) == set(concepts.KEYS)
    saved = load(str(root / "data/concepts/sparse_autoencoder_target_1_layer_1"))
    assert saved.layer == 1 and saved.settings["architecture"] == "topk" and len(saved.names) == len(saved.directions)
    features = pl.read_csv(root / "data/concepts/features.csv")
    assert features["share"].is_between(0, 1).all() and features["kind"].n_unique() == len(KINDS)
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    for words in ("random directions", "What gradients are in terms of features", "Two behaviours in one data set"):
        assert words in page
    asked = ["python", "-m", "stages.tools.concepts", "domains", "--load", str(root / "data/concepts")]
    refused = tiny.command(root, *asked, warm=warm_python, check=False)
    assert refused.returncode == 1 and "cfg.json: no such file" in refused.stderr
    shutil.rmtree(root)


def test_the_page_s_tables_have_every_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("data/concepts").mkdir(parents=True)
    shutil.copy(RESULTS, "data/concepts/metrics.json")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = explained()
    assert len(rows) == 2 * len(KINDS) * len(found["explained"]) == len({(one.group, one.name) for one in rows})
    rows = mixtures()
    assert len({(one.group, one.name) for one in rows}) == len(rows)
    assert {one.group for one in rows if "layer 3: marker 25%, city_country 75%" in one.group}


def rows_of(found: dict[str, Any], cell: str) -> list[str]:
    """The rows of a cell's table in the docs: features, and as many random directions in brackets."""
    rows = []
    for kind, scores in found["explained"][cell].items():
        cells = [
            f"{scores['features'][key]['value']:.2f} ({scores['random'][key]['value']:.2f})" for key in concepts.KEYS
        ]
        rows.append(f"| {kind}, {scores['count']} | {' | '.join(cells)} |")
    return rows


def mixed_rows(found: dict[str, Any], cell: str, pair: str) -> list[str]:
    """The rows of a mixture's table: the shares found of the first and the second behaviour, by true share."""
    rows = []
    for kind, scores in found["mixed"][cell][pair].items():
        cells = [f"{each['first']['value']:.2f} / {each['second']['value']:.2f}" for each in scores.values()]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def test_figures_in_the_docs_are_those_of_the_run():
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = (tiny.ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    for cell in found["explained"]:
        assert "\n".join(rows_of(found, cell)) in text
    for pair in found["mixed"]["target_1, layer 3"]:
        assert "\n".join(mixed_rows(found, "target_1, layer 3", pair)) in text
