"""Readers of facts: CounterFact, tables of all kinds, and what is no source of facts."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.core.data.facts import read_domain
from stages.tools.fact_sources import Columns, read_source
from stages.tools.import_facts import build, import_domain
from tests.tools.tables import lre, saved


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to import into."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table.parquet"])
def test_tables_are_read_as_text_with_one_relation_for_each_value(name: str, here: Path):
    table = pl.DataFrame(
        {"of": ["year", "year", "Sport!", "Sport!"], "what": ["A", "B", "C", "D"], "is": ["1066", "007", "golf", None]}
    )
    path = here / name
    if name.endswith("parquet"):
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if name.endswith("tsv") else ",")
    found = read_source(path, columns=Columns("what", "is", "of"))
    assert {each.relation: each.pairs for each in found} == {
        "year": (("A", "1066"), ("B", "007")),
        "Sport!": (("C", "golf"), ("D", "")),
    }
    imported = build(
        found, "mixed", "", ["year=The year of {} is", "year=In {} it is", "sport=The {} is", "sport={} is"]
    )
    assert list(imported.domain.relations) == ["year"]  # golf alone is no relation
    assert any("fewer than two answers" in reason for reason in imported.left["sport"].counts)


def test_counterfact_becomes_one_relation_for_each_id(here: Path):
    def case(relation: str, prompt: str, subject: str, true: str) -> dict[str, Any]:
        rewrite = {"prompt": prompt, "relation_id": relation, "target_new": {"str": "x", "id": "Q1"},
                   "target_true": {"str": true, "id": "Q2"}, "subject": subject}  # fmt: skip
        return {"case_id": 0, "requested_rewrite": rewrite, "paraphrase_prompts": ["..."]}

    cases = [
        case("P103", "The mother tongue of {} is", "Danielle Darrieux", "French"),
        case("P103", "The mother tongue of {} is", "Bruce Lee", "English"),
        case("P103", "{}, a native", "Go Hyeon-jeong", "Korean"),
        case("P413", "{} plays as", "Edwin van der Sar", "goalkeeper"),
        case("P413", "{}, the", "Robert Vernon", "outfielder"),
    ]
    imported = import_domain(
        [saved(here, "counterfact.json", cases)], "people", kinds=["person,trade", "P103=person,tongue"]
    )
    assert {name: relation.templates for name, relation in read_domain("people").relations.items()} == {
        "p103": ("The mother tongue of {subject} is", "{subject}, a native"),
        "p413": ("{subject} plays as", "{subject}, the"),
    }
    found = imported.domain.relations
    assert [(each.subject, each.answer) for each in found.values()] == [("person", "tongue"), ("person", "trade")]
    assert imported.domain.relations["p103"].source == "CounterFact P103"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, r"absent.json: no such file"),
        ("facts.txt", "a", r"facts.txt: format unknown from the name: wanted .json, .* or --format"),
        ("broken.json", "{", r"broken.json: not JSON"),
        ("other.json", {"rows": []}, r"other.json: neither an LRE table .* nor CounterFact"),
        ("lre.json", {"name": "x", "samples": []}, r"lre.json: prompt_templates: missing"),
        ("lre.json", lre("x", ["{} is"], {}) | {"samples": [{"subject": "a"}]}, r"lre.json: samples.0.object: missing"),
        ("lre.json", lre("x", ["{} is"], {}), r"nothing is left to import: "),
        ("cf.json", [{"prompt": "x"}], r"cf.json: 0.requested_rewrite: missing"),
        ("cf.json", [{"requested_rewrite": {"subject": "a"}}], r"cf.json: 0.requested_rewrite.target_true: missing"),
        ("t.csv", "a,b\n1,2\n", r"t.csv: --subject: missing: wanted one of the columns a, b"),
        ("t.parquet", "no parquet", r"t.parquet: not readable as parquet"),
    ],
)  # fmt: skip
def test_bad_sources_are_refused_by_name_and_nothing_is_written(name: str, content: Any, message: str, here: Path):
    path = here / name if content is None else saved(here, name, content)
    with pytest.raises(ValueError, match=message):
        import_domain([path], "bad")
    assert not (here / "data").exists()


def test_a_wrong_column_or_domain_name_is_refused(here: Path):
    path = saved(here, "t.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"t.csv: --answer: no column 'c', wanted one of a, b"):
        import_domain([path], "bad", columns=Columns("a", "c"))
    with pytest.raises(ValueError, match=r"--domain: .*found 'Two Words'"):
        import_domain([path], "Two Words", columns=Columns("a", "b"))
