"""Diff: each prompt's report is of its own change, what moved most comes first, and what can't be read is named."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file

from stages.core.concepts.dictionary import plain
from stages.core.engine.changes import change_gradients
from stages.core.grounding.reported import reports_of
from stages.core.model.changes import preceded
from stages.core.model.decoder import Decoder
from stages.core.model.opening import open_model
from stages.core.reader.gate import FAINT
from stages.core.run.errors import InputError
from stages.tools import cli
from stages.tools.diff import diff, read_prompts
from stages.tools.reading import open_reader
from stages.tools.watch import GradientWatch
from tests.benchmarks.diff import RESULTS
from tests.pipeline.tiny import copied
from tests.tools.documented import DOCS, arguments, blocks, columns

CONTEXT = "The capital of Italy is Berlin ."
ROWS: list[dict[str, Any]] = [
    {"prompt": "The capital of France is", "completion": " Berlin "},
    {"prompt": "The capital of Italy is"},
    {"prompt": "The capital of France is"},
]


@pytest.fixture
def here(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished tiny repository; the working directory. Read only."""
    monkeypatch.chdir(tiny_pipeline)
    return tiny_pipeline


def written(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def change(decoder: Decoder) -> Any:
    return preceded(decoder, CONTEXT)


def test_each_prompt_is_read_from_its_own_change_and_what_moved_most_comes_first(here: Path, tmp_path: Path):
    diff("context", change, written(tmp_path), tmp_path / "diff.parquet")
    found = pl.read_parquet(tmp_path / "diff.parquet")
    assert len(found) == 2 and found["distance"].is_sorted(descending=True)
    reader, _, settings = open_reader()
    card, tokenizer = reader.card, reader.decoder.tokenizer
    assert tokenizer is not None
    for row in found.iter_rows(named=True):
        prompt = reader.decoder.tokens(row["prompt"])
        one = change_gradients(
            reader.decoder, [prompt], change(reader.decoder), card.layers, card.places, tokens=len(card.places)
        )
        wanted = reports_of(reader, one.gradient, settings.evaluation.report_tokens, FAINT)
        assert row["report"] == wanted["report"][0]
        assert row["norm"] == pytest.approx(wanted["norm"][0], rel=1e-3)
        assert row["distance"] == pytest.approx(one.distance[0], rel=1e-3)
        assert row["after"] == str(tokenizer.decode(list(one.after[0]))).strip()


def test_json_and_parquet_hold_the_same_and_the_page_and_the_terminal_show_it(here: Path, tmp_path: Path):
    data = written(tmp_path)
    texts = [diff("A & B", change, data, tmp_path / name) for name in ("one.jsonl", "two.parquet")]
    assert texts[0] == texts[1] and "Meant to be taught: 1 prompts" in texts[0]
    assert "Moved, and nobody meant to" in texts[0]
    one, two = pl.read_ndjson(tmp_path / "one.jsonl"), pl.read_parquet(tmp_path / "two.parquet")
    assert one.drop("distance", "norm", "confidence", "explained").equals(
        two.drop("distance", "norm", "confidence", "explained")
    )
    np.testing.assert_allclose(one["distance"], two["distance"], rtol=1e-5)
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "A &amp; B" in page and "http" not in page.replace("http-equiv", "")
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    assert "meant" not in diff("context", change, written(tmp_path, rows), tmp_path / "three.jsonl").lower()


def test_the_mean_update_is_shown_as_the_features_that_make_it_up_each_with_its_names(here: Path, tmp_path: Path):
    reader, model, _ = open_reader()
    decoder, layer = reader.decoder, 1
    texts = ["The capital of France is", "The capital of Italy is"]
    found = change_gradients(decoder, [decoder.tokens(each) for each in texts], change(decoder), [layer], tokens=1)
    update = -torch.from_numpy(found.gradient[found.distance >= FAINT, 0]).mean(0)
    directions = torch.stack([-update, torch.randn(model.d_model)])
    made = replace(
        plain("own", model, layer, directions, torch.zeros(model.d_model)), names=[{"relation": "capital"}, {}]
    )
    made.save(tmp_path / "own")
    text = diff("context", change, written(tmp_path), tmp_path / "diff.jsonl", [str(tmp_path / "own")])
    assert "own, layer 1: 2 features are 1.00 of the mean update" in text
    assert re.search(r"1\.00  weaker +0: relation capital\n", text)
    assert "0: relation capital" in (tmp_path / "diff.html").read_text(encoding="utf-8")
    plain_rows, rows = tmp_path / "plain.jsonl", tmp_path / "diff.jsonl"
    diff("context", change, written(tmp_path), plain_rows)
    assert rows.read_text(encoding="utf-8") == plain_rows.read_text(encoding="utf-8")


def test_a_dictionary_of_another_model_is_refused(here: Path, tmp_path: Path):
    _, model, _ = open_reader()
    other = model.model_copy(update={"commit": "0" * 40})
    plain("own", other, 1, torch.eye(model.d_model), torch.zeros(model.d_model)).save(tmp_path / "own")
    with pytest.raises(InputError, match="dictionary own: found one of model"):
        diff("context", change, written(tmp_path), tmp_path / "diff.jsonl", [str(tmp_path / "own")])
    assert not (tmp_path / "diff.jsonl").exists()


def test_a_projector_that_reads_at_the_subject_is_refused_by_name(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = copied(here, tmp_path / "repository")
    card = root / "data/projector/projector.json"
    found = json.loads(card.read_text(encoding="utf-8"))
    card.write_text(json.dumps({**found, "places": ["subject"]}), encoding="utf-8")
    monkeypatch.chdir(root)
    with pytest.raises(InputError, match=r"data/projector: places: found subject, wanted target_1"):
        diff("context", change, written(tmp_path), tmp_path / "diff.jsonl")
    with pytest.raises(InputError, match=r"data/projector: places: found subject, wanted target_1"):
        GradientWatch(every=1)


def test_a_prompt_counts_once_and_a_completion_has_no_white_space_around_it(tmp_path: Path):
    found = read_prompts(written(tmp_path))
    assert found.rows() == [("The capital of France is", "Berlin"), ("The capital of Italy is", None)]
    pl.DataFrame({"prompt": ["a"]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"prompt": ["b"]}).write_parquet(tmp_path / "b.parquet")
    assert read_prompts(f"{tmp_path}/*.parquet")["prompt"].to_list() == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"text": "a"}], "found columns text of String, wanted prompt"),
        ([{"prompt": 1}], "found columns prompt of Int64, wanted prompt"),
        ([{"prompt": "a"}, {"prompt": " "}], "row 2: found no prompt"),
        ([], "prompts.jsonl: not readable"),
        ([{"prompt": "The capital of 中国 is"}], "has no token for this"),
        ([{"prompt": "The capital of France is " * 200}], "prompt and target longer than the context"),
    ],
    ids=["no column", "no text", "empty", "no row", "no letters", "long"],
)
def test_prompts_that_are_wrong_are_named(here: Path, tmp_path: Path, rows: list[dict[str, Any]], told: str):
    with pytest.raises(InputError) as error:
        diff("context", change, written(tmp_path, rows), tmp_path / "diff.jsonl")
    assert told in str(error.value)
    assert not (tmp_path / "diff.jsonl").exists() and not (tmp_path / "diff.html").exists()


def test_a_table_without_a_row_is_refused(tmp_path: Path):
    pl.DataFrame(schema={"prompt": pl.String}).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match=r"empty\.parquet: found no row, wanted at least one"):
        read_prompts(str(tmp_path / "empty.parquet"))


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"ends with '\.csv', wanted \.jsonl or \.parquet"):
        read_prompts("prompts.csv")
    with pytest.raises(InputError, match=r"none\.jsonl: no such file"):
        read_prompts("none.jsonl")
    with pytest.raises(InputError, match=r"--output: found diff\.csv"):
        diff("context", change, written(tmp_path), Path("diff.csv"))


def test_the_documented_commands_run(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(copied(here, tmp_path, "params.yaml", "data/model", "data/projector", "data/prompts"))
    (rows,) = blocks("comparing.md", "json")
    Path("my-prompts.jsonl").write_text(rows.replace("Kenya", "Italy"), encoding="utf-8")
    decoder, _ = open_model()
    save_file({"1": torch.ones(decoder.d_model)}, "my-vectors.safetensors")
    settings = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(decoder.model, settings).save_pretrained("my-model")  # type: ignore[arg-type]
    for command in arguments("comparing.md"):
        cli.main(command)
        assert " prompts of " in capsys.readouterr().out
    table = pl.read_parquet("diff.parquet")
    assert columns("comparing.md") == table.columns
    assert Path("diff.html").is_file() and len(pl.read_ndjson("diff.jsonl")) == 2


def shown(each: dict[str, float]) -> str:
    """A share with its interval, as the docs write it."""
    return f"{each['value']:.2f} ({each['low']:.2f}–{each['high']:.2f})"


def table_of(found: dict[str, Any]) -> list[str]:
    """The table of the docs: a row a kind of change."""
    rows = {
        "fine-tuned: what was taught": found["tuned"]["taught"],
        "fine-tuned: side effects": found["tuned"]["side_effects"],
        "soft prompts": found["prompted"],
        "steering vectors": found["steered"],
        "sentences in front, other prompts": found["contexts"],
    }
    parts = ("named", "away", "explained", "lens")
    head = (
        "| | changes | report: said after | report: said before | report explained by half: after | lens: first word |"
    )
    lines = [f"| {name} | {each['named']['rows']} | {' | '.join(shown(each[part]) for part in parts)} |"
             for name, each in rows.items()]  # fmt: skip
    return [head, "|---|---|---|---|---|---|", *lines]


def features_table(found: dict[str, Any]) -> list[str]:
    """The table of docs/comparing.md about a fine-tuning in features."""

    def row(name: str, each: dict[str, Any]) -> str:
        shares = (", ".join(f"{share:.2f}" for share in each[key]) for key in ("explained", "random"))
        return f"| {' | '.join([name, *shares, *(f'{each[key]:.2f}' for key in ('domain', 'chance'))])} |"

    head = "| | share of the update | random directions | made stronger: named geography | all features |"
    return [head, "|---|---|---|---|---|", *(row(*each) for each in found["tuned"]["features"].items())]


def test_figures_in_the_docs_are_those_of_the_benchmark():
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = (DOCS / "comparing.md").read_text(encoding="utf-8")
    assert "\n".join(table_of(found)) in text and "\n".join(features_table(found)) in text
    for name in ("fact", "flipped"):
        assert ", ".join(f"{share:.2f}" for share in found["tuned"][name]) in " ".join(text.split())
    search = found["contexts"]["search"]
    assert all(shown(search[name]) in " ".join(text.split()) for name in ("found", "says"))
    stated = found["preceded"]["obeyed"]
    assert f"it states {round(stated['value'] * stated['rows'])} of {stated['rows']} wrong facts back" in " ".join(
        text.split()
    )
