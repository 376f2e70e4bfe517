"""The local teacher's sentences: their words, their openings, and which of them are held out."""

import re

import polars as pl
import pytest

from stages.core.data.questions import Question
from stages.core.data.summaries import FORMS, HELD_OUT, NO_NAME, ONE_NAME, form_of, in_held_out_form, summarise
from stages.core.model.names import make_tokenizer

PARTS = ("geography", "Paris", "Rome")


def test_the_words_of_every_form_are_in_the_vocabulary_whatever_the_facts_are(real_questions: dict[str, Question]):
    known = make_tokenizer([], real_questions).get_vocab()
    for form in (*FORMS, *ONE_NAME.values(), NO_NAME):
        words = re.findall(r"\w+|[^\w\s]", re.sub(r"{.*?}", " ", form))
        assert not [word for word in words if word not in known], form


def test_there_are_eight_forms_and_two_held_out_each_names_all_parts_and_no_two_are_alike():
    said = [summarise(*PARTS, form) for form in FORMS]
    assert len(set(said)) == len(FORMS) == 8 + HELD_OUT
    assert all(all(part in text for part in PARTS) for text in said)
    assert len({text.replace("Paris", "x").replace("Rome", "x") for text in said}) == len(FORMS)


def test_a_held_out_form_is_known_by_its_text():
    said = pl.DataFrame({"summary": [summarise(*PARTS, form) for form in FORMS]})
    found = said.select(in_held_out_form(pl.col("summary")))["summary"].to_list()
    assert found == [False] * (len(FORMS) - HELD_OUT) + [True] * HELD_OUT


@pytest.mark.parametrize(
    ("away", "to", "wanted"),
    [("", "Rome", "toward Rome , in geography"), ("Paris", "", "away from Paris , in geography"), ("", "", NO_NAME)],
)
def test_a_shift_with_a_name_missing_is_said_without_it(away: str, to: str, wanted: str):
    assert {summarise("geography", away, to, form) for form in FORMS} == {wanted}


def test_prompts_have_all_forms_alike():
    drawn = pl.Series([form_of(str(number)) for number in range(2000)]).value_counts()
    assert len(drawn) == len(FORMS) and drawn["count"].is_between(140, 260).all()
