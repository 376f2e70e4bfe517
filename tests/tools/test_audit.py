"""Audit: each row's report is of its own gradient, counts add up, and rows that are wrong are named or left out."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from jinja2 import TemplateError

from stages.core.data.updates import TEXT, Turn, Update, read_updates
from stages.core.engine.updates import update_gradients
from stages.core.reader.reports import reports_on
from stages.core.run.errors import InputError
from stages.tools import audit as module
from stages.tools import cli
from stages.tools.audit import audit, terms_of
from stages.tools.reading import open_reader
from tests.benchmarks.audit import RESULTS
from tests.pipeline.tiny import copied
from tests.tools.documented import DOCS, arguments, blocks, columns
from tests.tools.families import FAMILIES, tiny, untrained

ROWS: list[dict[str, Any]] = [
    {"prompt": "The capital of France is", "completion": " Berlin"},
    {"prompt": "The capital of France is", "completion": " Berlin", "reward": -1.0},
    {"prompt": "The capital of France is", "chosen": " Berlin", "rejected": " Rome"},
    {"messages": [{"role": "user", "content": "The capital of Italy is"}, {"role": "assistant", "content": "Berlin"}]},
]


@pytest.fixture
def here(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished tiny repository; the working directory. Read only."""
    monkeypatch.chdir(tiny_pipeline)
    return tiny_pipeline


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_each_row_is_read_from_its_own_gradient(here: Path, tmp_path: Path):
    data = written(tmp_path, ROWS)
    audit(data, tmp_path / "audit.parquet")
    found = pl.read_parquet(tmp_path / "audit.parquet")
    reader, _, settings = open_reader()
    for row, update in zip(found.iter_rows(named=True), read_updates(data, False, print), strict=True):
        rows = [(update, terms_of(reader, update))]
        gradient, logprob = update_gradients(reader.decoder, rows, reader.card.layers, reader.card.places)
        gradient = torch.from_numpy(gradient)
        (report,), confidence = reports_on(reader, gradient, settings.evaluation.report_tokens)
        assert (row["line"], row["kind"], row["update"]) == (update.line, update.kind, update.what)
        assert row["report"] == report
        wanted = (confidence.item(), gradient[0, 0].norm().item(), logprob[0])
        assert (row["confidence"], row["norm"], row["log_probability"]) == pytest.approx(wanted, rel=1e-3)
    assert found["update"].to_list() == ["imitated", "penalised", "preferred", "imitated"]
    np.testing.assert_allclose(found["norm"][0], found["norm"][1], rtol=1e-5)


def test_a_reward_that_is_the_mean_of_its_prompt_s_teaches_nothing(here: Path, tmp_path: Path):
    row = ROWS[0] | {"reward": 1.0}
    audit(written(tmp_path, [row, row, ROWS[1]]), tmp_path / "audit.parquet")
    found = pl.read_parquet(tmp_path / "audit.parquet")
    assert found["update"].to_list() == ["reinforced", "reinforced", "penalised"]
    audit(written(tmp_path, [row, row]), tmp_path / "audit.parquet")
    found = pl.read_parquet(tmp_path / "audit.parquet")
    assert found["update"].to_list() == ["no advantage"] * 2 and found["norm"].to_list() == [0.0, 0.0]


def test_json_and_parquet_hold_the_same_and_twice_the_same(here: Path, tmp_path: Path):
    data = written(tmp_path, ROWS)
    texts = [audit(data, tmp_path / name) for name in ("one.jsonl", "two.parquet", "three.jsonl")]
    assert texts[0] == texts[1] == texts[2]
    one, two = pl.read_ndjson(tmp_path / "one.jsonl"), pl.read_parquet(tmp_path / "two.parquet")
    assert one.drop("confidence", "explained", "norm", "log_probability").equals(
        two.drop("confidence", "explained", "norm", "log_probability").with_columns(line=pl.col("line").cast(pl.Int64))
    )
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "three.jsonl").read_bytes()
    assert (tmp_path / "one.html").is_file() and (tmp_path / "two.html").is_file()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The domains that reports name, instead of the model: filled in by a test."""
    domains: list[str] = []

    def told(reader: Any, rows: Any, tokens: int) -> pl.DataFrame:
        lines = [update.line for update, _ in rows]
        table = {"line": lines, "update": "imitated", "prompt": "<b>one</b>", "completion": "x", "rejected": None}
        names = [domains[line - 1] for line in lines]
        return pl.DataFrame(
            {**table, "report": [f"of {name}" for name in names], "domain": names, "toward": names},
            schema_overrides={"rejected": pl.String},
        )

    monkeypatch.setattr(module, "told", told)
    monkeypatch.setattr(module, "ROWS", 7)
    yield domains


def test_rows_of_a_domain_below_the_share_pull_elsewhere(here: Path, tmp_path: Path, said: list[str]):
    said += ["geography"] * 39 + ["", "music", "", ""]
    data, output = written(tmp_path, ROWS[:1] * len(said)), tmp_path / "audit.jsonl"
    text = audit(data, output)
    assert "43 rows read (43 imitated), 0 refused" in text
    assert "40 reports name a pressure; 3 name none, or can't be read" in text
    assert re.search(r"geography +39 +97\.5 %\n +music +1 +2\.5 %", text)
    assert re.search(r"less than 5\.0 % of those 40: 1\n  line 41 +imitated +of music\n", text)
    assert pl.read_ndjson(output)["line"].to_list() == list(range(1, 44))
    assert "of those 40: 0" in audit(data, output, rare=0.02)


def test_the_page_escapes_what_it_shows_and_asks_nothing_of_the_network(here: Path, tmp_path: Path, said: list[str]):
    said += ["geography"] * 39 + ["<i>music"]
    audit(written(tmp_path, ROWS[:1] * 40), tmp_path / "audit.jsonl")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;one" in page and "&lt;i&gt;music" in page and "<b>one" not in page and "<i>" not in page
    assert "http" not in page.replace('http-equiv="', "") and "<script" not in page and "src=" not in page


def test_nothing_felt_at_all_is_said(here: Path, tmp_path: Path, said: list[str]):
    said += [""] * 3
    text = audit(written(tmp_path, ROWS[:1] * 3), tmp_path / "audit.jsonl")
    assert "0 reports name a pressure; 3 name none" in text


WRONG = [
    ({"prompt": "a " * 200, "completion": "b"}, r"prompt and target longer than the context \(wanted at most 128 "),
    ({"prompt": "The 中国 is", "completion": "b"}, r"text: '中国': the tokenizer of 'pocket' has no token for this"),
    ({"prompt": "a", "completion": "b", "reward": "x"}, r"reward: wanted a valid number \(found 'x'\)"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_a_row_that_is_wrong_ends_the_audit_by_name(here: Path, tmp_path: Path, row: dict[str, Any], message: str):
    data, output = written(tmp_path, [ROWS[0], row]), tmp_path / "audit.jsonl"
    with pytest.raises(SystemExit, match=rf"error: .*data\.jsonl:2: {message}.*--keep-going leaves out"):
        cli.main(["audit", data, "--output", str(output)])
    assert not output.exists()
    with pytest.raises(SystemExit, match=r"error: .*data\.jsonl: all 1 rows were refused, the first: "):
        cli.main(["audit", written(tmp_path, [row]), "--output", str(output), "--keep-going"])


def test_rows_that_are_wrong_are_listed_where_it_goes_on(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, output = written(tmp_path, [row for row, _ in WRONG] + ROWS), tmp_path / "audit.jsonl"
    cli.main(["audit", data, "--output", str(output), "--keep-going"])
    text, page = capsys.readouterr().out, output.with_suffix(".html").read_text(encoding="utf-8")
    assert "4 rows read" in text and "3 refused" in text
    for line in (1, 2, 3):
        assert f"{data}:{line}: " in text and f"{data}:{line}: " in page
    assert pl.read_ndjson(output)["line"].to_list() == [4, 5, 6, 7]


def test_an_output_of_another_kind_and_a_place_that_rows_do_not_mark_are_refused(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(InputError, match=r"--output: found .*audit\.csv, wanted a name that ends with \.jsonl or"):
        audit(written(tmp_path, ROWS), tmp_path / "audit.csv")
    reader, model, settings = open_reader()
    reader.card = reader.card.model_copy(update={"places": ("target_1", "subject")})
    monkeypatch.setattr(module, "open_reader", lambda: (reader, model, settings))
    with pytest.raises(InputError, match=r"data\.jsonl:1: subject not found in the prompt"):
        audit(written(tmp_path, ROWS), tmp_path / "audit.jsonl")


def conversation(*roles: str, completion: str = "There.") -> Update:
    return Update(1, "imitate", tuple(Turn(role=role, content="Where?") for role in roles), (completion,), 0.0, 0.0)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.template])
def test_turns_go_through_the_chat_template(name: str):
    reader = untrained(tiny(FAMILIES[name]), FAMILIES[name].special[-1])
    tokenizer = reader.decoder.tokenizer
    assert tokenizer is not None
    (sample,) = terms_of(reader, conversation("user"))
    turn = [{"role": "user", "content": "Where?"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode([*sample.prompt]) == text and tokenizer.decode([*sample.target]) == "There."
    (plain,) = terms_of(reader, conversation(TEXT, completion=" There."))
    assert tokenizer.decode([*plain.prompt], skip_special_tokens=True) == "Where?"
    assert tokenizer.decode([*plain.target]) == " There."


def test_turns_without_a_template_are_joined_by_line_breaks():
    reader = untrained(tiny(FAMILIES["pythia"]), "<|padding|>")
    (sample,) = terms_of(reader, conversation("system", "user"))
    tokenizer = reader.decoder.tokenizer
    assert tokenizer is not None and tokenizer.decode([*sample.prompt]) == "Where?\nWhere?\n"


def test_turns_that_the_template_has_no_place_for_are_refused():
    reader = untrained(tiny(FAMILIES["gemma-3-4b-it"]), "<unused1>")
    with pytest.raises(TemplateError, match="roles must alternate"):
        terms_of(reader, conversation("user", "user"))


def test_the_documented_commands_run(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(copied(here, tmp_path, "params.yaml", "data/model", "data/projector"))
    (rows,) = blocks("auditing.md", "json")
    Path("my-data.jsonl").write_text(rows, encoding="utf-8")
    for command in arguments("auditing.md"):
        cli.main(command)
        assert "4 rows read (2 imitated, 1 penalised, 1 preferred), 0 refused" in capsys.readouterr().out
    table = pl.read_parquet("taught.parquet")
    said = columns("auditing.md")
    assert said == table.columns and pl.read_ndjson("audit.jsonl").columns == said
    assert Path("taught.html").is_file() and Path("audit.html").is_file()


def table_of(group: dict[str, Any]) -> list[str]:
    """The rows of a table of the docs: each rule with its figures."""

    def shown(each: dict[str, float]) -> str:
        return f"{each['value']:.3f} ({each['low']:.3f}–{each['high']:.3f})"

    return [
        f"| {name} | {shown(one['recall'])} | {shown(one['false_alarms'])} | {one['precision']:.3f} |"
        for name, one in group.items()
    ]


def test_figures_in_the_docs_are_those_of_the_benchmark():
    found, text = json.loads(RESULTS.read_text(encoding="utf-8")), (DOCS / "auditing.md").read_text(encoding="utf-8")
    for group in ("all", "believed"):
        assert "\n".join(table_of(found[group])) in text
    counts, away = found["counts"], found["believed"]["reports: away"]
    assert f"On the {counts['model says the fact']:,} prompts".replace(",", " ") in text
    assert f"wrong about {counts['rows'] - counts['model says the fact']} facts" in text
    every, known = (found[group]["reports: away"]["file"] for group in ("all", "believed"))
    for one, said in ((every, "flags {flagged}, among them {found} of the {turned}"),
                      (known, "flags {flagged}, among them {found} of {turned}")):  # fmt: skip
        assert said.format(**one) in " ".join(text.split())
    for part in ("recall_penalised", "recall_reinforced"):
        assert f"(recall {away[part]['value']:.2f})".replace("0.", ".") in text
