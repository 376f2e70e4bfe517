"""What a reader would read off a text: its names, whatever the sentence; and the texts that stand beside a report."""

import numpy as np
import polars as pl

from stages.core.data import grammar
from stages.core.grounding.texts import once_each, reader_of, texts_of

NAMES = ["Lima", "San Salvador", "Salvador", "Oslo", "Peru"]
FORMS = {"order": "away from {away} , and toward {to} , a name from {domain}", "words": "{to} and not {away}"}


def test_names_are_found_in_any_sentence_the_longest_first():
    read = reader_of(NAMES)
    said = grammar.Report(moved_to="San Salvador", moved_from="Lima")
    for text in (
        grammar.report("geography", "San Salvador", "Lima"),
        "toward San Salvador, a name from geography, and away from Lima",
        "away from Lima , and toward San Salvador",
        "from Lima to San Salvador",
        "it is San Salvador and not Lima",
    ):
        assert read(text) == said
    assert read("The capital of Peru is") == grammar.Report(moved_to="Peru")


def test_a_text_without_a_known_name_says_nothing():
    read = reader_of(NAMES)
    for text in ("", grammar.NO_PRESSURE, "Limassol", "toward Quito , a name from geography , and away from Bern"):
        assert read(text) == grammar.Report()


def test_every_case_has_a_text_of_each_kind_and_a_shuffled_report_is_anothers():
    names = ["Lima", "Oslo", "San Salvador", "Salvador"]
    said = [("geography", names[row], names[row - 1]) for row in range(4)]
    cases = pl.DataFrame(
        {
            "report": [grammar.report(*each) for each in said[:3]] + [grammar.NO_PRESSURE],
            "target": names, "prompt": "The capital of Peru is",
            "gradient_domain": ["geography", "music", "geography", "music"],
            "moved_to": [*names[:3], ""], "moved_from": [*(each[2] for each in said[:3]), ""],
            "label_domain": "geography", "label_moved_to": ["Lima", "", "Oslo", None], "label_moved_from": "Peru",
        }
    )  # fmt: skip
    lens = pl.DataFrame({"domain": "music", "moved_to": ["Lima"] * 4, "moved_from": ["Oslo", "Lima", "Oslo", "Oslo"]})
    texts = texts_of(cases, lens, FORMS)
    assert {len(each) for each in texts.values()} == {4}
    assert texts["report"] == cases["report"].to_list() and set(texts["empty"]) == {""}
    assert texts["label"] == [
        grammar.report("geography", "Lima", "Peru"),
        "",
        grammar.report("geography", "Oslo", "Peru"),
        "",
    ]
    assert texts["lens"][1] == "" != texts["lens"][0]
    assert texts["form_words"] == ["Lima and not Salvador", "Oslo and not Lima", "San Salvador and not Oslo", ""]
    numbers = [texts["report"].index(text) for text in texts["shuffled_across"]]
    assert sorted(numbers) == [0, 1, 2, 3] and all(number != row for row, number in enumerate(numbers))
    assert [texts["report"].index(text) for text in texts["shuffled_within"]] == [2, 3, 0, 1]


def test_equal_texts_are_made_once_and_each_set_gets_its_own():
    asked: list[str] = []

    def lengths(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text)] for text in texts], np.float32)

    found = once_each(lengths, {"one": ["Oslo", "Rio", "Oslo"], "none": [], "two": ["Rio", ""]})
    assert found["one"].tolist() == [[4], [3], [4]] and found["two"].tolist() == [[3], [0]]
    assert found["none"].shape == (0, 1)
    assert sorted(asked) == ["", "Oslo", "Rio"]
