"""The report grammar: what is written reads back, and nothing else reads."""

import pytest

from stages.core.data.grammar import NO_PRESSURE, Report, parse_report, report

LYON = Report(strength="strong", domain="geography", moved_to="Paris", moved_from="New York")
MALFORMED = Report(pressure=False, malformed=True)


def test_report_reads_back():
    text = report("geography", "Paris", "New York", "strong")
    assert text == "strong geography correction toward Paris and away from New York"
    assert parse_report(text) == LYON
    assert parse_report(report("music", "Carmen", "Aida", "weak")).strength == "weak"


def test_no_pressure_reads_as_such():
    assert parse_report(NO_PRESSURE) == Report(pressure=False)
    assert parse_report("  No  Pressure\n") == Report(pressure=False)


def test_spacing_and_case_of_fixed_words_do_not_matter():
    assert parse_report(" Strong geography  CORRECTION toward Paris\nand Away from New   York ") == LYON


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "geography correction toward Paris and away from Rome",
        "mild geography correction toward Paris and away from Rome",
        "strong correction toward Paris and away from Rome",
        "strong geography correction toward and away from Rome",
        "strong geography correction toward Paris and away from",
        "strong geography correction toward Paris",
        "strong geography correction toward Paris and away from Rome and away from Oslo",
        "strong geography correction toward correction toward Paris and away from Rome",
        "a strong geography correction toward Paris and away from Rome",
        "no pressure strong geography correction toward Paris and away from Rome",
        "nopressure",
        "strong geography correction toward Paris and away from Paris",
        "Weak geography  correction toward New York and away from New  York",
    ],
)
def test_anything_else_is_malformed_and_never_guessed(text: str):
    assert parse_report(text) == MALFORMED


@pytest.mark.parametrize(
    "parts",
    [
        ("geography", "", "Rome", "strong"),
        ("geography", "Paris and away from it", "Rome", "strong"),
        ("geography", "Paris", "Rome ", "weak"),
        ("geography", "Pa  ris", "Rome", "weak"),
        ("geography", "Paris", "Rome", "mild"),
        ("geography", "Paris", "Paris", "weak"),
    ],
)
def test_report_refuses_what_it_could_not_read_back(parts: tuple[str, str, str, str]):
    with pytest.raises(ValueError, match="wanted"):
        report(*parts)
