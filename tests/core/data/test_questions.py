"""Questions: every form has a place for what is felt, and a set that can't be asked is refused by name."""

from pathlib import Path

import pytest

from stages.core.data.questions import ASKED, check_place, read_questions

ROOT = Path(__file__).parents[3]
FORM, OTHER = "<felt> away <opposite> toward what ?", "<felt> what is it toward ?"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/questions").mkdir(parents=True)
    return tmp_path / "data/questions/mine.yaml"


def test_the_default_s_questions_cover_what_may_be_expected_and_each_has_a_form_for_no_training_row(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(ROOT)
    found = read_questions("pressure")
    assert {question.expects for question in found.values()} == {"report", "toward", "away", "field", "kind", "choice"}
    for name, question in found.items():
        assert name == question.expects and len(set(question.forms)) == len(question.forms) >= 3
        for form in question.forms:
            assert check_place(form) == form
            assert all(form.count(field) == 1 for field in ASKED.get(name, ()))


def test_a_hub_model_s_first_questions_are_an_identity_prompt_and_whether_a_pressure_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(ROOT)
    assert [question.expects for question in read_questions("identity").values()] == ["name", "notice"]


@pytest.mark.parametrize(
    "question",
    [
        "what do you feel ?",
        "<felt> and <felt> toward what ?",
        "<felt> away <opposite> <opposite> toward what ?",
        "<opposite> away <felt> toward what ?",
        "<opposite> toward what ?",
        "",
    ],
)
def test_a_question_without_its_places_is_refused(question: str):
    with pytest.raises(ValueError, match=r"question '.*': wanted <felt> exactly once, .* at most once and behind it"):
        check_place(question)


def test_a_prompt_of_the_world_may_be_a_question():
    assert check_place("The currency of <felt> is") == "The currency of <felt> is"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"toward: {{expects: toward, forms: ['{FORM}']}}", r"mine.yaml: toward.forms: .*at least 2"),
        (f"toward: {{expects: word, forms: ['{FORM}', '{OTHER}']}}", r"mine.yaml: toward.expects: wanted 'report'"),
        (f"toward: {{expects: toward, forms: ['{FORM}', 'toward what ?']}}", r"mine.yaml: toward.forms: question"),
        (f"kind: {{expects: kind, forms: ['{FORM}', '<felt> a {{kind}} ?']}}",
         r"mine.yaml: (kind|choice|toward).forms: form '<felt> away .* must hold \{kind\} exactly once"),
        ("choice: {expects: choice, forms: ['<felt> {one} ?', '<felt> {one} or {other} ?']}",
         r"mine.yaml: (kind|choice|toward).forms: form '<felt> \{one\} \?' must hold \{other\} exactly once"),
        (f"toward: {{expects: toward, forms: ['{FORM}', ' {OTHER}']}}", r"mine.yaml: .*without leading"),
        (f"toward: {{expects: toward, forms: ['{FORM}', '{OTHER}'], more: 1}}", r"mine.yaml: toward.more: unknown key"),
        (f"toward: {{forms: ['{FORM}', '{OTHER}']}}", r"mine.yaml: toward.expects: missing"),
        ("toward: [", r"mine.yaml: not readable as YAML"),
        ("- toward", r"mine.yaml: \(whole file\): wanted keys with values \(found \['toward'\]\)"),
        ("", r"mine.yaml: \(whole file\): wanted keys with values \(found None\)"),
        ("toward: 3", r"mine.yaml: toward: wanted keys with values \(found 3\)"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_the_schema_is_refused_and_names_its_key(here: Path, text: str, message: str):
    here.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_questions("mine")


def test_an_unknown_set_is_named_with_those_that_are_there(here: Path):
    here.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"questions: unknown set 'yours': no file .*yours.yaml \(known: mine"):
        read_questions("yours")
