"""Answers to questions: fields filled by hash, marks by what is expected, shares by group."""

import polars as pl
import pytest
import torch

from stages.core.data.facts import Domain, World
from stages.core.data.questions import Question
from stages.core.evaluate.answers import asked, by_group, filled, marked, noticed, question_scores, with_shams
from stages.core.evaluate.table import ANSWERS
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import HOW, cases_of, raw_reader, slots_of

PAIRS = [("Lima", "Oslo"), ("Puccini", "Verdi")] * 200
KIND, CHOICE = "<felt> is it a {kind} ?", "<felt> toward {one} or toward {other} ?"


@pytest.fixture(scope="module")
def world(small_domains: list[Domain]) -> World:
    return World.of(small_domains)


def test_half_of_the_kinds_asked_about_are_the_target_s_and_the_others_are_others(world: World):
    rows = [filled(KIND, case, world, 0) for case in cases_of(*PAIRS).iter_rows(named=True)]
    own = [row["asked_kind"] == world.kinds[row["target"]] for row in rows]
    assert 160 < sum(own) < 240
    assert {row["asked_kind"] for row, yes in zip(rows, own, strict=True) if not yes} == set(world.domains)
    assert all(row["question"] == f"<felt> is it a {row['asked_kind']} ?" for row in rows)


def test_a_choice_is_between_target_and_answer_in_half_of_the_cases_in_either_order(world: World):
    rows = [filled(CHOICE, case, world, 0) for case in cases_of(*PAIRS).iter_rows(named=True)]
    orders = {(pair, first) for pair in set(PAIRS) for first in (True, False)}
    texts = {(t, a) if first else (a, t) for (t, a), first in orders}
    assert {row["question"] for row in rows} == {f"<felt> toward {one} or toward {two} ?" for one, two in texts}
    assert 160 < sum(row["question"].startswith(f"<felt> toward {row['target']}") for row in rows) < 240


def test_what_a_case_is_asked_depends_on_the_case_and_the_seed_alone(world: World):
    every = list(cases_of(*PAIRS).iter_rows(named=True))
    found = [filled(KIND, case, world, 0) for case in every]
    assert [filled(KIND, case, world, 0) for case in reversed(every)] == found[::-1]
    assert [filled(KIND, case, world, 1) for case in every] != found


@pytest.mark.parametrize(
    ("expects", "said", "right"),
    [
        ("report", "toward Lima , a name from geography , and away from Oslo", True),
        ("report", "toward Lima , a name from music , and away from Tokyo", True),  # the name moved to decides
        ("report", "toward Oslo , a name from geography , and away from Lima", False),
        ("report", "no pressure", False),
        ("toward", "Lima", True),
        ("toward", "Oslo", False),
        ("toward", "Lima Lima", False),
        ("away", "toward Lima , away from Oslo", True),
        ("away", "toward Tokyo , away from Oslo", True),  # the name moved from decides
        ("away", "toward Lima , away from Lima", False),
        ("away", "Oslo", False),
        ("choice", "Lima", True),
        ("choice", "Oslo", False),
        ("field", "Lima , a name from geography", True),
        ("field", "Lima , a name from music", False),
        ("kind", "Lima is a city no", True),
        ("kind", "Lima is a city yes", False),
        ("kind", "", False),
        ("name", "Lima", True),
        ("name", "Lima ; dog -> dog", True),
        ("name", "Lima.\ncat -> cat", True),
        ("name", "Lima Norte ; dog", False),
        ("name", "cat ; Lima", False),
        ("notice", "Yes, I do.", True),
        ("notice", "No.", False),
        ("notice", "I can't say yes", False),
        ("notice", "", False),
    ],
)
def test_an_answer_is_right_by_what_its_question_expects(world: World, expects: str, said: str, right: bool):
    case = cases_of(("Lima", "Oslo")).row(0, named=True) | {"asked_kind": "composer", "noticed": True}
    assert marked(expects, said, case, world)["right"] is right


def test_what_is_expected_is_right_whatever_is_asked(world: World, small_questions: dict[str, Question]):
    for case in cases_of(*PAIRS[:2]).iter_rows(named=True):
        for question in small_questions.values():
            row = filled(question.forms[0], case, world, 0)
            expected = marked(question.expects, "", row, world)["expected"]
            assert marked(question.expects, expected, row, world)["right"]


def test_every_question_is_put_in_its_first_and_its_last_form_about_every_case(
    small_decoder: Decoder, world: World, small_questions: dict[str, Question]
):
    reader, pairs = raw_reader(small_decoder), PAIRS[:3]
    found = asked(reader, cases_of(*pairs), slots_of(reader, *pairs), small_questions, world, HOW)
    assert found.schema == pl.Schema(ANSWERS) and len(found) == 2 * len(small_questions) * len(pairs)
    assert not found["question"].str.contains("{", literal=True).any()
    for name, question in small_questions.items():
        if name not in ("kind", "choice"):
            for form, text in (("trained", question.forms[0]), ("held_out", question.forms[-1])):
                rows = found.filter((pl.col("asks") == name) & (pl.col("form") == form))
                assert rows["question"].to_list() == [text] * 3
                assert rows["target"].to_list() == [target for target, _ in pairs]


def test_a_pressure_to_be_noticed_is_the_update_in_half_of_the_cases_and_in_the_others_a_random_direction(
    small_decoder: Decoder, world: World
):
    reader, cases = raw_reader(small_decoder), cases_of(*PAIRS)
    slots = slots_of(reader, *PAIRS)
    found = with_shams(reader, cases, slots, 0)
    own = (found.felt == slots.felt).all(-1).all(-1)
    assert own.tolist() == [noticed(case, 0) for case in cases.iter_rows(named=True)] and 160 < own.sum() < 240
    assert (found.opposite[own] == slots.opposite[own]).all() and (found.count == slots.count).all()
    cosines = torch.cosine_similarity(found.felt[~own], slots.felt[~own], dim=-1)
    assert abs(cosines.mean()) < 0.1 and torch.equal(found.felt[~own], -found.opposite[~own])
    question = Question(expects="notice", forms=("<felt> is it a city ?", "<felt> is it an era ?"))
    asks = asked(reader, cases[:4], slots[:4], {"notice": question}, world, HOW)
    assert asks["expected"].to_list() == 2 * ["yes" if one else "no" for one in own[:4]]


def test_shares_are_of_each_question_and_form_of_all_and_of_each_group_that_has_rows(
    small_questions: dict[str, Question],
):
    reasons = ["none", "none", "target", "kind"]
    table = pl.DataFrame(
        {
            "model": ["main"] * 5,
            "asks": ["toward"] * 4 + ["kind"],
            "form": ["trained"] * 4 + ["held_out"],
            "held_out": [*reasons, "none"],
            "target": list("abcde"),
            "said": ["a", "a", "c", "", "Oslo is a city yes"],
            "expected": ["a", "b", "c", "d", "Lima is a city yes"],
            "right": [True, False, True, False, True],
        }
    )
    found = question_scores(table, small_questions)
    assert {name: list(forms) for name, forms in found.items()} == {"toward": ["trained"], "kind": ["held_out"]}
    values = {name: one.value for name, one in found["toward"]["trained"].items()}
    assert values == {"all": 0.5, "seen": 0.5, "held_out_target": 1, "held_out_kind": 0}
    chances = found["toward"]["trained"]["all"].chance, found["kind"]["held_out"]["all"].chance
    assert chances == (2 / 4 / 4 + 1 / 4 / 4, 1)  # "a" is said twice and right once, "c" said and right once
    assert set(by_group(table[4:])) == {"all", "seen"}
