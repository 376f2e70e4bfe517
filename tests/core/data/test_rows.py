"""Rows of one's own among the prompts: split as facts are, never trained with a held-out name, refused by line."""

import json
from pathlib import Path

import polars as pl
import pytest

from stages.core.data.corrections import make_prompts
from stages.core.data.facts import Domain
from stages.core.data.held_out import hold_out
from stages.core.run.errors import InputError
from stages.generators.rows import extended
from tests.core.conftest import Real

OPEN = "something else"
"""A completion that is not held out."""


@pytest.fixture(scope="module", params=["geography", "chemistry"])
def domain(real_domains: list[Domain], request: pytest.FixtureRequest) -> Domain:
    return next(domain for domain in real_domains if domain.domain == request.param)


@pytest.fixture(scope="module")
def facts(domain: Domain, real_params: Real) -> pl.DataFrame:
    return make_prompts(domain, real_params.prompts, real_params.held_out)


def with_rows(facts: pl.DataFrame, domain: Domain, real: Real, rows: list[tuple[str, str]]) -> pl.DataFrame:
    """The facts' prompts and these rows behind them."""
    path = Path(f"data/rows/{domain.domain}.jsonl")
    path.parent.mkdir(parents=True)
    lines = [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return extended(facts, domain, real.prompts, real.held_out)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_rows_stand_behind_the_facts_and_share_the_split_of_their_prompt(facts, domain, real_params: Real):
    known = facts.filter(held_out="none").unique("prompt", maintain_order=True)
    table = with_rows(facts, domain, real_params, [(prompt, f" {OPEN} \n") for prompt in known["prompt"]])
    assert table[: len(facts)].equals(facts) and table["prompt_id"].is_unique().all()
    new = table[len(facts) :]
    assert set(new["kind"]) == {"row"} and set(new["target"]) == {OPEN} and new["answer"].null_count() == len(new)
    assert new["template"].equals(new["prompt"]) and set(new["subject"]) == {""}
    assert new.filter(held_out="none")["split"].n_unique() == 3
    both = new.filter(held_out="none").join(known, on="prompt", maintain_order="left")
    assert len(both) > len(known) / 2 and both["split"].equals(both["split_right"], check_names=False)


def test_what_is_held_out_of_the_facts_never_trains(facts, domain, real_domains, real_params: Real):
    out, relations = real_params.held_out, domain.relations.values()
    of_kind = [relation for relation in relations if {relation.subject, relation.answer} & set(out.kinds)]
    known = {*domain.entities, *(fact.subject for relation in of_kind for fact in relation.facts)}
    closed = sorted(known & hold_out(real_domains, out).closed)
    subjects = facts.filter(~pl.col("subject").is_in(closed), held_out="subject")["subject"].unique(maintain_order=True)
    wordings = [relation.templates[-1].replace("{subject}", "our village") for relation in relations]
    rows = {
        "target": [("Some speak of", f"the old {name.upper()}, mostly") for name in closed] + [("So it is", "London")],
        "answer": [(f"Not far from {name}, there", OPEN) for name in closed],
        "subject": [(f"{name} is called", OPEN) for name in subjects],
        "template": [(wording, OPEN) for wording in wordings],
    }
    texts = [text for each in rows.values() for text in each]
    new = with_rows(facts, domain, real_params, [*texts, ("It was", OPEN)])[len(facts) :]
    wanted = pl.Series([reason for reason, each in rows.items() for _ in each] + ["none"])
    also = (new["held_out"] == "answer") & wanted.is_in(["subject", "template"])  # "In": a word, and a held-out symbol
    assert ((new["held_out"] == wanted) | also).all() and set(new["held_out"]) > {"target", "answer", "template"}
    assert set(new[:-1]["split"]) == {"test"} and closed


def test_a_row_that_stands_there_already_is_no_second_one(facts, domain, real_params: Real, capsys):
    fact = facts.row(0, named=True)
    rows = [("It was", OPEN), (fact["prompt"], f" {fact['target']}"), ("It was", f" {OPEN}"), ("It was", "more")]
    table = with_rows(facts, domain, real_params, rows)
    assert table[len(facts) :].select("prompt", "target").rows() == [("It was", OPEN), ("It was", "more")]
    assert capsys.readouterr().out.startswith(f"data/rows/{domain.domain}.jsonl: 2 of 4 rows, 1 hold")
    pl.DataFrame(rows[3:], ["prompt", "completion"], orient="row").write_parquet(f"data/rows/{domain.domain}.parquet")
    assert extended(facts, domain, real_params.prompts, real_params.held_out).equals(table)


USER, ASSISTANT = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": [USER, ASSISTANT]}, "found a conversation, wanted its text in prompt"),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "found a conversation"),
        ({"prompt": "It was", "completion": "so", "reward": 1.0}, "found a reward, wanted prompt and completion alone"),
        ({"prompt": "It was", "chosen": "so", "rejected": "not"}, "found a preference"),
        ({"prompt": "It was", "completion": " \n"}, "found white space alone"),
        ({"prompt": "It was"}, "completion"),
    ],
)
def test_a_row_that_the_table_cannot_hold_is_named_by_file_and_line(facts, domain, real_params, row, complaint):
    Path("data/rows").mkdir(parents=True)
    lines = [json.dumps(each) for each in ({"prompt": "It was", "completion": OPEN}, row)]
    Path(f"data/rows/{domain.domain}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=rf"^data/rows/{domain.domain}\.jsonl:2: .*{complaint}"):
        extended(facts, domain, real_params.prompts, real_params.held_out)


def test_a_domain_without_a_file_has_its_facts_alone_and_says_so(facts, domain, real_params: Real, capsys):
    with pytest.raises(InputError, match=r"^data/rows: no such folder, wanted <domain>.jsonl"):
        extended(facts, domain, real_params.prompts, real_params.held_out)
    Path("data/rows").mkdir(parents=True)
    assert extended(facts, domain, real_params.prompts, real_params.held_out).equals(facts)
    assert capsys.readouterr().out.startswith(f"data/rows: no file of {domain.domain}: 0 of 0 rows")
