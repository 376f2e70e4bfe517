"""Rows of one's own among the prompts: split as facts are, never trained with a held-out name, refused by line."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.corrections import make_prompts
from stages.core.data.facts import Domain
from stages.core.data.held_out import hold_out
from stages.core.data.tables import ROW
from stages.core.run.errors import InputError
from stages.generators.rows import extended
from tests.core.conftest import Real

OPEN = "something else"
"""A completion that is not held out."""


@pytest.fixture(params=["geography", "chemistry"])
def domain(real_domains: list[Domain], request, tmp_path: Path, monkeypatch) -> Domain:
    (tmp_path / "data/rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return next(domain for domain in real_domains if domain.domain == request.param)


@pytest.fixture
def facts(domain: Domain, real_params: Real) -> pl.DataFrame:
    return make_prompts(domain, real_params.prompts, real_params.held_out)


def with_rows(facts: pl.DataFrame, domain: Domain, real: Real, rows: list[Any]) -> pl.DataFrame:
    """The facts' prompts and these rows behind them: columns by name, or prompt and completion."""
    lines = [row if isinstance(row, dict) else {"prompt": row[0], "completion": row[1]} for row in rows]
    Path(f"data/rows/{domain.domain}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return extended(facts, domain, real.prompts, real.held_out)


def test_rows_stand_once_behind_the_facts_and_share_the_split_of_their_prompt(facts, domain, real_params, capsys):
    assert extended(facts, domain, real_params.prompts, real_params.held_out).equals(facts)
    assert capsys.readouterr().out.startswith(f"data/rows: no file of {domain.domain}: 0 of 0 rows")
    known = facts.filter(held_out="none").unique("prompt", maintain_order=True)
    rows = [(prompt, f"{text}\n") for prompt, text in known.select("prompt", "target").rows()]
    rows += [(prompt, f" {OPEN}") for prompt in known["prompt"]] * 2
    table = with_rows(facts, domain, real_params, rows)
    assert table[: len(facts)].equals(facts) and table["prompt_id"].is_unique().all()
    new = table[len(facts) :]
    assert set(new.select("kind", "subject", "answer", "target").rows()) == {("row", "", None, OPEN)}
    assert capsys.readouterr().out.startswith(f"data/rows/{domain.domain}.jsonl: {len(known)} of {len(rows)} rows")
    both = new.filter(held_out="none").join(known, on="prompt", maintain_order="left")
    assert both["split"].equals(both["split_right"]) and both["split"].n_unique() == 3


def test_what_is_held_out_of_the_facts_never_trains(facts, domain, real_domains, real_params: Real):
    out, relations = real_params.held_out, domain.relations.values()
    of_kind = [relation for relation in relations if {relation.subject, relation.answer} & set(out.kinds)]
    known = {*domain.entities, *(fact.subject for relation in of_kind for fact in relation.facts)}
    closed = sorted(known & hold_out(real_domains, out).closed)
    subjects = facts.filter(~pl.col("subject").is_in(closed), held_out="subject")["subject"].unique()
    rows = {
        "target": [("Some speak of", f"the old {name.upper()}, mostly") for name in closed] + [("So it is", "London")],
        "answer": [(f"Not far from {name}, there", OPEN) for name in closed],
        "subject": [(f"{name} is called", OPEN) for name in subjects],
        "template": [(relation.templates[-1].replace("{subject}", "our village"), OPEN) for relation in relations],
        "none": [("It was", OPEN)],
    }
    new = with_rows(facts, domain, real_params, [text for each in rows.values() for text in each])[len(facts) :]
    wanted = pl.Series([reason for reason, each in rows.items() for _ in each])
    also = (new["held_out"] == "answer") & wanted.is_in(["subject", "template"])  # "In": a word, and a held-out symbol
    assert ((new["held_out"] == wanted) | also).all() and set(new["held_out"]) > {"target", "answer", "template"}
    assert set(new[:-1]["split"]) == {"test"}


def test_a_reward_is_a_row_and_a_preference_two_of_one_prompt(facts, domain, real_params: Real):
    rows = [
        {"prompt": "It was", "completion": "so", "reward": -1.5},
        {"prompt": "It went", "chosen": " well", "rejected": "badly "},
        {"prompt": "It went", "chosen": "fast", "rejected": "badly"},
    ]
    new = with_rows(facts, domain, real_params, rows)[len(facts) :]
    wanted = [("It was", "so"), ("It went", "well"), ("It went", "badly"), ("It went", "fast")]
    assert list(new.select("prompt", "target").iter_rows()) == wanted
    assert set(new["kind"]) == {ROW} and new.filter(prompt="It went")["split"].n_unique() == 1


def test_a_row_that_the_table_cannot_hold_is_named_by_file_and_line(facts, domain, real_params: Real):
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
    for row, complaint in (
        ({"messages": turns}, "found a conversation, wanted its text in prompt"),
        ({"prompt": "It was", "completion": "so", "reward": "much"}, "reward"),
        ({"prompt": "It was", "chosen": "so", "rejected": "so"}, "rejected"),
        ({"prompt": "It was", "chosen": "so", "rejected": " "}, "found white space alone"),
        (("It was", " \n"), "found white space alone"),
        ({"prompt": "It was"}, "completion"),
    ):
        with pytest.raises(InputError, match=rf"^data/rows/{domain.domain}\.jsonl:2: .*{complaint}"):
            with_rows(facts, domain, real_params, [("It was", OPEN), row])
