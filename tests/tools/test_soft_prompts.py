"""The stage soft_prompts: what is fitted and what is held apart, weights that are put back, and the curve."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from stages.core.concepts.taught import laid_out, marked_losses, says
from stages.core.evaluate.lessons import FACT, one_a_fact, wrong_answers
from stages.core.model.opening import open_model
from stages.tools import soft_prompts
from stages.tools.sweep_table import called
from tests.core.engine.families import tiny as tiny_decoder
from tests.pipeline import tiny
from tests.pipeline.warm import Warm

RESULTS = tiny.ROOT / "tests/benchmarks/results/soft_prompts.json"
FEWER: tiny.Changes = {
    "stages/tools/soft_prompts.py": (
        ("FACTS, SEEDS = 24, 3", "FACTS, SEEDS = 2, 1"),
        ("VECTORS = (0, 1, 2, 4, 8)", "VECTORS = (0, 1)"),
        ("(0.1, 0.3, 1.0), 8", "(0.1, 0.3, 1.0), 2"),
        ("pl.Series(known.tolist(), dtype=pl.Boolean)", "True"),  # this model knows three facts
        ("STEPS, FITTING_RATE, ENOUGH = 300,", "STEPS, FITTING_RATE, ENOUGH = 2,"),
    ),
}
COLUMNS = ("fitted", "apart", "noise_0.1", "noise_0.3", "noise_1")


@pytest.fixture
def found(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, soft_prompts.Behaviour]:
    """By name, those of eight facts."""
    monkeypatch.chdir(tiny_pipeline)
    prompts = wrong_answers(tiny.DOMAINS[0])
    return {each.name: each for each in soft_prompts.behaviours(prompts, one_a_fact(prompts)[:8])}


def test_what_is_apart_is_another_prompt_and_a_fact_s_is_another_of_the_same(
    found: dict[str, soft_prompts.Behaviour],
):
    assert set(found) == set(called("behaviours"))
    for name, each in found.items():
        assert len(each.apart) and not set(each.fitted["prompt"]) & set(each.apart["prompt"])
        assert len(one_a_fact(each.fitted)) == len(each.fitted)
        if name.startswith("facts"):
            wanted = each.fitted.select(*FACT, "target").sort(FACT)
            assert each.apart.select(*FACT, "target").sort(FACT).equals(wanted)
    rule, undone, out = (found[name] for name in ("rule", "undone", "brought out"))
    assert pl.concat([rule.fitted, rule.apart])["target"].n_unique() == 1
    for each in (undone, out):
        assert each.tuned is not None
        assert set(each.fitted["prompt"]) | set(each.apart["prompt"]) == set(each.tuned[0]["prompt"])
    assert undone.tuned is not None and out.tuned is not None and undone.tuned[1] > out.tuned[1]
    assert (undone.fitted["target"] != out.fitted["target"]).all()


def test_fitting_makes_the_model_say_it_and_leaves_the_weights(monkeypatch: pytest.MonkeyPatch):
    decoder = tiny_decoder("qwen3")
    monkeypatch.setattr(soft_prompts, "STEPS", 100)
    before = [value.clone() for value in decoder.model.parameters()]
    ids, part = laid_out([((5, 6, 7), (8, 9))], decoder.device)
    assert not says(decoder, ids, part == 1).any()
    prompt = soft_prompts.fitted(decoder, ids, part == 1, 4, 0)
    assert prompt.shape == (4, decoder.d_model) and says(decoder, ids, part == 1, prompt).all()
    assert all(torch.equal(*pair) for pair in zip(decoder.model.parameters(), before, strict=True))
    assert torch.equal(prompt, soft_prompts.fitted(decoder, ids, part == 1, 4, 0))
    empty = soft_prompts.fitted(decoder, ids, part == 1, 0, 0)
    torch.testing.assert_close(
        marked_losses(decoder, ids, part == 1, empty)[0], marked_losses(decoder, ids, part == 1)[0]
    )


def test_noise_has_its_share_of_each_vectors_norm_and_is_another_in_every_draw():
    prompt = torch.tensor([[1.0], [20.0]]).expand(2, 4096)
    for scale in (0.1, 1.0):
        added = soft_prompts.noised(prompt, scale, 0) - prompt
        torch.testing.assert_close(added.norm(dim=-1), scale * prompt.norm(dim=-1), rtol=0.05, atol=0)
    assert not torch.equal(soft_prompts.noised(prompt, 0.1, 0), soft_prompts.noised(prompt, 0.1, 1))


def test_each_number_of_vectors_is_measured_and_the_weights_are_put_back(
    found: dict[str, soft_prompts.Behaviour], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(soft_prompts, "VECTORS", (0, 2))
    decoder, _ = open_model()
    before = [value.clone() for value in decoder.model.parameters()]
    table = pl.concat(list(soft_prompts.measured(decoder, found["brought out"], 0)))
    assert all(torch.equal(*pair) for pair in zip(decoder.model.parameters(), before, strict=True))
    assert set(table.filter(vectors=2)["part"]) == set(COLUMNS)
    assert set(table.filter(vectors=0)["part"]) == {"fitted", "apart"}
    assert table["said"].is_between(0, 1).all()


def test_make_soft_prompts_writes_a_row_for_every_behaviour(tiny_pipeline: Path, warm_python: Warm, tmp_path: Path):
    root = tiny.copied(tiny_pipeline, tmp_path / "repository")
    tiny.declare_sweeps(root)
    tiny.changed(root, FEWER)
    done = tiny.command(root, "make", "-o", ".venv/.built", "soft-prompts", warm=warm_python)
    assert "said, rule, vectors 1: " in done.stdout
    curve = pl.read_csv(root / "data/soft_prompts/curve.csv")
    metrics = json.loads((root / "data/soft_prompts/metrics.json").read_text(encoding="utf-8"))
    for behaviour in called("behaviours"):
        assert curve.filter(behaviour=behaviour)["vectors"].to_list() == [0, 1]
        assert set(metrics[behaviour]["1"]) == set(COLUMNS)
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert all(words in page for words in called("behaviours").values())
    shutil.rmtree(root)


def rows_of(found: dict[str, Any], *columns: str) -> str:
    """The rows of the docs' table of some columns: shares by number of vectors."""
    rows = []
    for behaviour, words in called("behaviours").items():
        shares = [each for each in found[behaviour].values() if set(columns) <= set(each)]
        cells = [" / ".join(format(each[column]["value"], ".2f") for column in columns) for each in shares]
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_figures_in_the_docs_are_those_of_the_run():
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = (tiny.ROOT / "docs/comparing.md").read_text(encoding="utf-8")
    for columns in (("fitted", "apart"), ("noise_0.1", "noise_0.3", "noise_1")):
        assert rows_of(found, *columns) in text
    assert f"{found['facts']} facts" in text
