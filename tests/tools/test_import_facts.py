"""Imports: every LRE table, CounterFact, CSV and Parquet; nothing is dropped in silence, and nothing is overwritten."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.core.data.facts import Domain, read_domain
from stages.tools import cli
from stages.tools.dependencies import differences
from stages.tools.fact_sources import Columns, read_source
from stages.tools.import_facts import build, import_domain, pocket_spelling, tidy, written
from tests.pipeline import tiny
from tests.tools.tables import OWN, lre, lre_tables, saved


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to import into."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    tiny.make_repository(root)
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("table", lre_tables(), ids=lambda table: Path(table).stem)
def test_every_lre_table_is_imported_and_every_row_accounted_for(table: Path | str, here: Path):
    path = table if isinstance(table, Path) else saved(here, f"{table}.json", OWN[table])
    imported = import_domain([path], "imported")
    assert read_domain("imported") == imported.domain
    raw = json.loads(path.read_text(encoding="utf-8"))
    (relation,) = imported.domain.relations.values()
    (left,) = imported.left.values()
    (rows,) = (left.rows for left in imported.left.values())
    dropped = sum(n for why, n in left.counts.items() if "template" not in why and "kept" not in why)
    assert rows == len(raw["samples"]) == len(relation.facts) + dropped
    truth = {(tidy(sample["subject"]), tidy(sample["object"])) for sample in raw["samples"]}
    assert {(fact.subject, fact.answer) for fact in relation.facts} <= truth
    own = {t.replace("{}", "{subject}") for t in raw["prompt_templates"] + raw["prompt_templates_zs"]}
    lost = sum(n for why, n in left.counts.items() if why.startswith("template dropped"))
    made = sum(n for why, n in left.counts.items() if why.startswith("template made up"))
    assert len(set(relation.templates) & own) == len(relation.templates) - made and lost <= 2 and made <= 1


def test_our_own_tables_show_what_the_real_ones_may_not(here: Path):
    found = {name: import_domain([saved(here, f"{name}.json", OWN[name])], name) for name in OWN}
    assert found["river_mouth"].domain.relations["river_mouth"].templates == (
        "{subject} flows into the",
        "What sea does {subject} flow into? It flows into the",
    )
    assert found["painter"].domain.relations["painter"].templates[1] == "The painter of {subject} is"
    gem = found["gem_colour"]
    assert gem.domain.relations["gem_colour"].templates[1] == "The gem colour of {subject} is"
    assert gem.left["gem_colour"].counts["template dropped: it names the answers itself"] == 2


def test_several_tables_make_one_domain(here: Path):
    paths = [saved(here, f"{name}.json", OWN[name]) for name in ("painter", "river_mouth")]
    assert list(import_domain(paths, "mixed").domain.relations) == ["painter", "river_mouth"]
    with pytest.raises(ValueError, match="two sources hold a relation 'painter'"):
        import_domain([paths[0], paths[0]], "twice")


def test_what_cannot_be_a_fact_is_counted_under_its_reason(here: Path):
    rows = [
        ("France", "Paris"), (" Italy ", "Rome"), ("Spain", ""), ("", "Oslo"), ("France", "Paris"), ("France", "Lyon"),
        ("Mexico", "Mexico City"), ("Old Tokyo Tower", "Tokyo"), ("Japan", "Tokyo"), ("Peru", "Lima"),
        ("Kent", "Lima Norte"), ("Brazil", "Bras\\u00edlia"), ("Odd", "Ostia , and away from Rome"), ("Hero", "Zor-El"),
        ("Kuwait", "Kuwait City"),
    ]  # fmt: skip
    text = "country,capital\n" + "".join(f'"{subject}","{answer}"\n' for subject, answer in rows)
    found = read_source(saved(here, "capitals.csv", text), columns=Columns("country", "capital"))
    templates = ["The capital of {subject} is", "{} has the capital"]
    imported = build(found, "capitals", "Capitals", templates, plain=True)
    assert dict(imported.left["capitals"].counts) == {
        "subject or answer is empty": 2,
        "the same fact again": 1,
        "subject again, with another answer (the first stays)": 1,
        "the prompt names the answer": 1,
        "one answer begins with another": 1,
        "kept, and respelt: escapes or decomposed letters": 1,
        "the answer can't stand in a report": 1,
        "the pocket model can't write the answer as it stands (--plain)": 1,
    }
    kept = {fact.subject: fact.answer for fact in imported.domain.relations["capitals"].facts}
    assert kept == {
        "France": "Paris", "Italy": "Rome", "Mexico": "Mexico City", "Japan": "Tokyo", "Peru": "Lima",
        "Brazil": "Brasília", "Kuwait": "Kuwait City",
    }  # fmt: skip
    assert len(build(found, "capitals", "Capitals", templates, limit=2).domain.relations["capitals"].facts) == 2


def test_of_two_answers_that_begin_alike_the_rarer_goes(here: Path):
    text = "s,a\nA,New York\nB,New York City\nC,New York City\nD,Boston\n"
    found = read_source(saved(here, "x.csv", text), columns=Columns("s", "a"))
    imported = build(found, "x", "", ["The {} is", "A {} is"])
    assert imported.domain.entities == ("New York City", "Boston")


def test_templates_that_do_not_fit_are_named(here: Path):
    found = read_source(saved(here, "x.csv", "s,a\nA,red\nB,blue\n"), columns=Columns("s", "a"))
    given = [
        "no subject",
        "{} and {}",
        "{subject} {other}",
        "It is red: {}",
        "The {} is",
        "x=A {} is",
        "y=Another {} is",
    ]
    imported = build(found, "x", "", given)
    assert imported.domain.relations["x"].templates == ("The {subject} is", "A {subject} is")
    assert imported.left["x"].counts.total() == 4


def test_a_table_without_templates_says_how_to_give_them(here: Path):
    found = read_source(saved(here, "x.csv", "s,a\nA,red\nB,blue\n"), columns=Columns("s", "a"))
    with pytest.raises(ValueError, match=r"relation 'x': found no template that fits, wanted at least 2: .*--template"):
        build(found, "x", "")


def test_kinds_are_those_of_the_source_or_of_the_command_line(here: Path):
    table = saved(here, "x.csv", "thing,Its Colour\nA,red\nB,blue\n")
    found = read_source(table, columns=Columns("thing", "Its Colour"))
    templates = ["The {} is", "A {} is"]
    with pytest.raises(ValueError, match=r"relation 'x': kinds .*found 'thing,Its Colour', wanted two nouns .*--kinds"):
        build(found, "x", "", templates)
    for given in (["thing,colour"], ["a,b", "x=thing,colour", "y=c,d"]):
        relation = build(found, "x", "", templates, kinds=given).domain.relations["x"]
        assert (relation.subject, relation.answer) == ("thing", "colour")
    gem = build(read_source(saved(here, "gem.json", OWN["gem_colour"])), "gem", "").domain.relations["gem_colour"]
    assert (gem.subject, gem.answer) == ("a", "b")


def test_what_does_not_fit_the_world_is_not_added(repository: Path):
    table = saved(repository, "clubs.csv", "club,city\nAjax,Amsterdam\nBarca,Barcelona\n")
    given = ["The home of {} is", "{} is at home in"]
    before = (repository / "params.yaml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"kind 'city' is answered in data/facts/geography.yaml already"):
        import_domain([table], "sport", columns=Columns("club", "city"), templates=given, add=True)
    assert not (repository / "data/facts/sport.yaml").exists()
    assert (repository / "params.yaml").read_text(encoding="utf-8") == before


def test_what_is_written_reads_back_as_it_was_whatever_it_looks_like(here: Path):
    odd = {
        "No": "yes",
        "1e3": "0x1F",
        "a: b": "# c",
        "it's": '"so"',
        "null": "~",
        "{x}": "[y]",
        "é": "日本",
        "-": "- z",
    }
    found = read_source(saved(here, "odd.json", lre("odd", ["{} is", "The {} is"], odd)))
    domain = build(found, "odd", "Odd: ones # here").domain
    assert Domain.model_validate(YAML(typ="safe").load(written(domain))) == domain
    assert {fact.subject: fact.answer for fact in domain.relations["odd"].facts} == odd


def test_the_projects_own_files_would_be_written_as_they_stand():
    for path in (tiny.ROOT / "data/facts").glob("*.yaml"):
        domain = Domain.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
        assert Domain.model_validate(YAML(typ="safe").load(written(domain))) == domain


def test_a_domain_is_never_overwritten_unasked(here: Path):
    path = saved(here, "painter.json", OWN["painter"])
    import_domain([path], "art")
    (here / "data/facts/art.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"data/facts/art.yaml: is there already: .*--force"):
        import_domain([path], "art")
    assert (here / "data/facts/art.yaml").read_text() == "mine"
    import_domain([path], "art", force=True)
    assert read_domain("art").entities == ("Picasso", "Munch", "Manet")


def test_pocket_spelling_is_what_the_pocket_tokenizer_writes():
    from stages.core.model.names import make_tokenizer

    answers = ("Kara Zor-El", "Washington D.C.", "New Delhi", "O'Neil", "H2O", "Brasília")
    facts = [{"subject": answer, "answer": answer} for answer in answers]
    templates = ["The {subject} is", "A {subject} is"]
    relation = {"source": "x", "subject": "name", "answer": "name", "templates": templates, "facts": facts}
    domain = Domain.model_validate({"domain": "odd", "description": "", "relations": {"odd": relation}})
    tokenizer = make_tokenizer([domain], {})
    for answer in answers:
        assert tokenizer.decode(tokenizer.encode(answer, add_special_tokens=False)) == pocket_spelling(answer)


def test_add_puts_the_domain_into_params_and_pipeline(repository: Path, capsys: pytest.CaptureFixture[str]):
    table = saved(repository, "athletes.csv", "who,what\nPelé,football\nAli,boxing\nGraf,tennis\nBolt,sprint\n")
    before = (tiny.ROOT / "params.yaml").read_text(encoding="utf-8")
    (repository / "params.yaml").write_text(before, encoding="utf-8")
    cli.main(
        ["import-facts", str(table), "--domain", "sport", "--subject", "who", "--answer", "what", "--add",
         "--template", "The sport of {subject} is", "--template", "What made {subject} famous is"]
    )  # fmt: skip
    params = YAML(typ="safe").load((repository / "params.yaml").read_text(encoding="utf-8"))
    assert params["domains"][-1] == params["labels"]["lexicon"][-1] == "sport"
    after = (repository / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert len([line for line in after if line not in before.splitlines()]) == 2
    assert not differences(repository, write=False)
    assert "data/prompts/sport.parquet" in (repository / "dvc.yaml").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    assert "Next: make repro" in shown and shown.endswith("data/facts/sport.yaml: 4 facts, 4 answers\n")
    tiny.command(repository, "dvc", "stage", "list")


def test_the_summary_names_what_was_left_out_what_is_thin_and_the_next_step(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    facts = {"Superman": "Clark Kent", "Supergirl": "Kara Zor-El", "Big Barda": "Big Barda"}
    cli.main(["import-facts", str(saved(here, "hero.json", lre("hero", ["{} is"], facts))), "--domain", "hero"])
    shown = capsys.readouterr().out
    for said in (
        "1 the prompt names the answer: Big Barda → Big Barda",
        "1 template made up from the relation's name, as there was one only: 'The hero of {subject} is'",
        "fewer than 3 templates: hero",
        "facts 2 of 100, answers 2 of 60, relations 1 of 2",
        "(Kara Zor-El → Kara Zor - El)",
        "--add --force",
    ):
        assert said in shown
