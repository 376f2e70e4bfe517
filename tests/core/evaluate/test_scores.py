"""Reports are parsed and marked against what is known, and summed up."""

from typing import Any

import polars as pl
import pytest

from stages.core.data.grammar import report
from stages.core.evaluate.scores import Words, by_words, scored, summary
from stages.core.evaluate.table import REPORTS


def cases(count: int = 1, **columns: Any) -> pl.DataFrame:
    """Cases whose gradient moves from Aida to Carmen, in front of a host of geography."""
    row = {
        "prompt_id": "a", "host_prompt_id": "b", "condition": "real", "held_out": "none", "gradient_domain": "music",
        "host_domain": "geography", "prompt": "The opera of Verdi is", "host": "The capital of Peru is",
        "target": "Carmen", "answer": "Aida", "seed": 0, "confidence": 0.9,
    }  # fmt: skip
    assert set(columns) <= set(row)
    return pl.DataFrame([row | columns] * count)


def marks(text: str, **columns: Any) -> set[str]:
    """The marks that are true of a report."""
    row = scored(cases(**columns), [text]).row(0, named=True)
    names = ("domain_right", "target_right", "answer_right", "host_intrusion", "pressure", "malformed")
    return {name for name in names if row[name]}


RIGHT = {"domain_right", "target_right", "answer_right", "pressure"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (report("music", "Carmen", "Aida"), RIGHT),
        (report("music", "Aida", "Carmen"), {"domain_right", "pressure"}),
        (report("geography", "Lima", "Oslo"), {"host_intrusion", "pressure"}),
        (report("history", "Carmen", "Oslo"), {"target_right", "pressure"}),
        ("no pressure", set()),
        ("toward Carmen , a name from music", {"malformed"}),
        ("", {"malformed"}),
        (report("music", "carmen", "Aida"), RIGHT - {"target_right"}),  # names are compared to the letter
    ],
)
def test_a_report_is_marked(text: str, wanted: set[str]):
    assert marks(text) == wanted


def test_naming_the_host_s_domain_is_no_intrusion_where_it_is_the_gradient_s_or_there_is_no_host():
    text = report("music", "Carmen", "Aida")
    assert marks(text, host_domain="music") == marks(text, host_domain="none", host=None, host_prompt_id=None) == RIGHT


def test_the_table_has_the_stated_columns_and_types():
    assert scored(cases(2), ["no pressure", ""]).schema == pl.Schema(REPORTS)


def test_a_summary_counts_what_a_person_would():
    said = [
        report("music", "Carmen", "Aida"),
        report("geography", "Carmen", "Rome"),
        "no pressure",
        "?",
    ]
    rows = scored(cases(4).with_columns(target=pl.Series(["Carmen", "Carmen", "Tosca", "Tosca"])), said)
    found = summary(rows, with_chance=True)
    assert {name: found[name] for name in ("reports", "malformed", "no_pressure", "reports_spoken")} == {
        "reports": 4, "malformed": 0.25, "no_pressure": 0.25, "reports_spoken": 2,
    }  # fmt: skip
    scores = [found[name] for name in ("domain_accuracy", "target_accuracy", "host_intrusion")]
    assert [one.value for one in scores] == [0.25, 0.5, 0.25]
    assert [one.spoken.value for one in scores] == [0.5, 1, 0.5]
    target = found["target_accuracy"]
    assert target.chance == 0.25  # "Carmen" is said twice in four, and is right twice in four
    assert target.spoken.chance == 1  # of those that speak, always
    assert found["host_intrusion"].chance is None and "vague" not in found


def test_a_summary_has_intervals_over_all_reports_and_over_those_that_speak():
    targets = [f"opera {number}" for number in range(24)]
    said = [report("music", target, "Aida") for target in targets[:12]] + ["no pressure"] * 12
    found = summary(scored(cases(24).with_columns(target=pl.Series(targets)), said))
    for name in ("domain_accuracy", "target_accuracy", "answer_accuracy", "host_intrusion"):
        for one in (found[name], found[name].spoken):
            assert one.low <= one.value <= one.high
        assert (found[name].entities, found[name].spoken.entities) == (24, 12)
    assert found["target_accuracy"].high < found["target_accuracy"].spoken.low


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (report("music", "Tosca", "Carmen"), False),
        (report("music", "something", "Carmen"), False),  # one of the two entities is known
        (report("music", "Tosca", "something"), False),
        (report("music", "something", "that"), True),
        (report("opera", "Tosca", "Carmen"), True),
        ("no pressure", False),
        ("?", False),
    ],
)
def test_a_report_that_names_no_known_entity_or_no_known_domain_is_vague(text: str, wanted: bool):
    prompts = {"target": ["Tosca", "Aida"], "answer": ["Carmen", None], "domain": ["music", "music"]}
    words = Words.of(pl.DataFrame(prompts))
    assert words == Words(frozenset({"Tosca", "Aida", "Carmen"}), frozenset({"music"}))
    rows = scored(cases(), [text])
    assert words.vague(rows).to_list() == [wanted]
    assert summary(rows, words)["vague"] == wanted


def test_names_of_several_words_are_counted_apart_and_so_is_their_first_word():
    short = cases(2), [report("music", "Carmen", "Aida"), report("music", "Tosca", "Aida")]
    long = (
        cases(2, target="Il trovatore", answer="Die Feen"),
        [report("music", "Il trovatore", "Die tote Stadt"), report("music", "Il pirata", "Aida")],
    )
    flipped = cases(condition="sign_flipped", target="Aida", answer="Carmen"), ["no pressure"]
    found = by_words(pl.concat([scored(*short), scored(*long), scored(*flipped)]))
    values = {
        name: {key: one if key == "reports" else one.value for key, one in group.items()}
        for name, group in found.items()
    }
    assert values == {
        "decoupling_one_word": {"reports": 2, "to": 0.5, "to_first": 0.5, "from": 1.0, "from_first": 1.0},
        "decoupling_several_words": {"reports": 2, "to": 0.5, "to_first": 1.0, "from": 0.0, "from_first": 0.5},
        "sign_flipped_one_word": {"reports": 1, "to": 0.0, "to_first": 0.0, "from": 0.0, "from_first": 0.0},
    }
