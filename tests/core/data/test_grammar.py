"""The grammar: what is written reads back, and nothing else reads."""

import pytest

from stages.core.data.grammar import NO_PRESSURE, Report, field, kind, names, parse_report, report

PARIS = Report(domain="geography", moved_to="Paris", moved_from="New York")
MALFORMED = Report(pressure=False, malformed=True)


def test_report_reads_back():
    text = report("geography", "Paris", "New York")
    assert text == "toward Paris , a name from geography , and away from New York"
    assert parse_report(text) == PARIS
    assert parse_report(report("music", "Carmen", "Aida")).domain == "music"


def test_no_pressure_reads_as_such():
    assert parse_report(NO_PRESSURE) == Report(pressure=False)
    assert parse_report("  No  Pressure\n") == Report(pressure=False)


@pytest.mark.parametrize(
    "text",
    [
        " Toward Paris ,  A name FROM geography\n, and Away from New   York ",
        "toward Paris, a name from geography, and away from New York",
    ],
)
def test_spacing_and_case_of_fixed_words_do_not_matter(text: str):
    assert parse_report(text) == PARIS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "geography , toward Paris , a name from geography , and away from Rome",
        "toward Paris , and away from Rome",
        "toward Paris and away from Rome",
        "toward Paris , a name from , and away from Rome",
        "toward , a name from geography , and away from Rome",
        "toward Paris , a name from geography , and away from",
        "toward Paris , a name from geography",
        "toward Paris , a name from geography , and away from Rome , and away from Oslo",
        "toward Paris , a name from music , a name from geography , and away from Rome",
        "a toward Paris , a name from geography , and away from Rome",
        "no pressure toward Paris , a name from geography , and away from Rome",
        "nopressure",
        "toward Paris , a name from geography , and away from Paris",
        "Toward New York ,  a name from geography , and away from New  York",
    ],
)
def test_anything_else_is_malformed_and_never_guessed(text: str):
    assert parse_report(text) == MALFORMED


@pytest.mark.parametrize(
    "parts",
    [
        ("geography", "", "Rome"),
        ("", "Paris", "Rome"),
        ("geography", "Paris , and away from it", "Rome"),
        ("geography", "Paris , a name from France", "Rome"),
        ("geography", "Paris", "Rome "),
        ("geography", "Pa  ris", "Rome"),
        ("geography", "Paris", "Paris"),
    ],
)
def test_report_refuses_what_it_could_not_read_back(parts: tuple[str, str, str]):
    with pytest.raises(ValueError, match="wanted"):
        report(*parts)


def test_other_answers_name_the_word_first_and_then_say_what_it_is():
    assert field("Paris", "geography") == "Paris , a name from geography"
    assert kind("Paris", "city", "city") == "Paris is a city yes"
    assert kind("Paris", "city", "country") == "Paris is a city no"


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("Paris", True),
        ("Paris.", True),
        ("Paris, which", True),
        ("Paris\n", True),
        ("Parisian", False),
        ("In Paris", False),
    ],
)
def test_a_text_begins_with_a_name_that_ends_there(text: str, begins: bool):
    assert names(text, "Paris") is begins
