"""Questions that the reader's own knowledge answers: what is asked, what is right, and what chance is."""

import polars as pl
import pytest
import torch

from stages.core.data.facts import Domain, World
from stages.core.evaluate.answers import (
    about,
    answered,
    by_name,
    dealt,
    entity,
    guessed,
    knowledge_scores,
    looked_up,
    pooled_scores,
    readings,
    with_marks,
    with_own,
)
from stages.core.evaluate.fine_tuning import trainable, tune
from stages.core.evaluate.table import ANSWERS
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import cases_of, raw_reader, sample_of, slots_of

PAIRS = [("Lima", "Oslo"), ("Peru", "Japan"), ("Puccini", "Verdi"), ("Oslo", "Lima"), ("verism", "realism")]


@pytest.fixture(scope="module")
def world(small_domains: list[Domain]) -> World:
    return World.of(small_domains)


@pytest.fixture(scope="module")
def rows(world: World) -> pl.DataFrame:
    return about(world, cases_of(*PAIRS), ["capital"])


def test_every_relation_of_the_target_s_kind_is_asked_in_its_last_template(rows: pl.DataFrame):
    """Nothing is known of an era, and nothing is asked about one."""
    assert rows.select("case", "asks", "form", "world").rows() == [
        (0, "place", "foreign", "Peru"), (1, "capital", "trained", "Lima"), (2, "era", "foreign", "verism"),
        (3, "place", "foreign", "Norway"),
    ]  # fmt: skip
    known = [f"It is known that the {text}" for text in ("city {} is in", "capital of {} is", "period of {} is called")]
    known.append(known[0])
    assert rows["question"].to_list() == [text.format("<felt>") for text in known]
    assert rows["plain"].to_list() == [text.format(to) for text, (to, _) in zip(known, PAIRS, strict=False)]
    assert rows["entities"].to_list()[0] == ["Peru", "Norway", "Japan", "India", "Salvador", "Rica"]


def test_a_target_that_the_relation_says_nothing_of_is_not_asked_about(world: World):
    assert about(world, cases_of(("Richard Wagner", "Verdi")), []).is_empty()


def test_where_nothing_can_be_asked_there_are_no_answers_and_no_scores(world: World, small_decoder: Decoder):
    reader, pair = raw_reader(small_decoder), ("verism", "realism")
    found = with_own(reader, about(world, cases_of(pair), []), 4)
    names = {"moved_to": ["verism"], "moved_from": ["realism"]}
    told = readings(reader, found, slots_of(reader, pair), names, torch.arange(1), 4)
    assert told.schema == pl.Schema(ANSWERS) and told.is_empty() and knowledge_scores(told) == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("San", "San"),
        ("San José and more", "San José"),
        ("San Salvador", "San"),
        ("Santiago", ""),
        ("the San", ""),
        ("", ""),
    ],
)
def test_an_answer_names_the_longest_entity_that_it_begins_with(text: str, wanted: str):
    assert entity(text, ["San", "San José", "Oslo"]) == wanted


def test_right_is_what_the_model_says_of_the_name_itself_and_not_what_is_true(
    rows: pl.DataFrame, trained_decoder: Decoder
):
    """The model is taught that Lima is in Norway."""
    reader = raw_reader(trained_decoder)
    before = with_own(reader, rows, 4).filter(pl.col("case") == 0)
    assert before["expected"].to_list() == ["Peru"]
    with trainable(trained_decoder.blocks):
        tune(trained_decoder, [sample_of(reader, "It is known that the city Lima is in", "Norway")], 60, 1e-2, 0.01)
        own = with_own(reader, rows, 4).filter(pl.col("case") == 0)
        plain = answered(reader, by_name(own, ["Lima"]), "named", None, 4)
    assert own.select("expected", "world").rows() == [("Norway", "Peru")]
    assert plain.select("said", "right", "world").rows() == [("Norway", True, "Peru")]
    assert with_marks(own, "nearest", ["Peru"])["right"].to_list() == [False]


def test_rows_where_the_model_names_no_entity_are_left_out(rows: pl.DataFrame, small_decoder: Decoder):
    """An untrained model says anything."""
    found = with_own(raw_reader(small_decoder), rows, 4)
    assert len(found) < len(rows) and (found["expected"] != "").all()


def test_each_reading_is_of_what_it_says(rows: pl.DataFrame, trained_decoder: Decoder):
    reader = raw_reader(trained_decoder)
    own, slots = with_own(reader, rows, 4), slots_of(reader, *PAIRS)
    shuffled = torch.tensor([3, 1, 2, 0, 4])
    names = {"moved_to": [to for to, _ in PAIRS], "moved_from": [""] * len(PAIRS)}
    found = {str(name): part for (name,), part in readings(reader, own, slots, names, shuffled, 4).group_by("reading")}
    assert set(found) == {"raw", "freed", "named", "shuffled"}
    assert found["named"]["right"].all()  # the very prompts that say what is right
    assert found["freed"]["said"].equals(found["raw"]["said"])  # no name to take out
    assert found["shuffled"]["said"].equals(answered(reader, own, "shuffled", slots[shuffled], 4)["said"])


def test_looking_up_asks_the_facts_alone(world: World, rows: pl.DataFrame):
    names = ["Oslo", "Norway", "Lima", "nowhere", ""]
    assert looked_up(rows, names, world) == ["Norway", "Oslo", "", ""]


def test_slots_are_dealt_within_a_kind_and_never_of_the_same_target_where_there_is_another(world: World):
    pairs = [("Lima", "Oslo"), ("Lima", "Tokyo"), ("Oslo", "Lima"), ("Tokyo", "Lima"), ("Peru", "Japan"),
             ("Puccini", "Verdi"), ("Bizet", "Verdi")]  # fmt: skip
    cases = cases_of(*pairs * 3).with_columns(prompt_id=pl.Series([f"id{row}" for row in range(21)]))
    for seed in range(5):
        taken = dealt(cases, world, seed).tolist()
        for row, other in enumerate(taken):
            own, found = cases["target"][row], cases["target"][other]
            assert world.kinds[own] == world.kinds[found] and (own != found or own == "Peru")
    assert dealt(cases[4:5], world, 0).tolist() == [0]
    assert not torch.equal(dealt(cases, world, 0), dealt(cases, world, 1))


def answers(asks: list[str], said: list[str], expected: list[str], **same: object) -> pl.DataFrame:
    """Answers of one reading, each about another target."""
    given = {"model": "main", "reading": "raw", "form": "foreign", "held_out": "none", "world": None} | same
    columns = {"asks": asks, "said": said, "expected": expected, "target": [f"t{n}" for n in range(len(said))]}
    found = pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in given.items()})
    return found.with_columns(right=pl.col("said") == pl.col("expected"))


def test_chance_is_dealing_the_answers_anew_within_each_relation():
    """Always the same within a relation: chance is the share that it is right, all there is to be had."""
    table = answers(["a"] * 4 + ["b"] * 2, ["x"] * 4 + ["y"] * 2, ["x", "x", "z", "z", "y", "x"])
    assert guessed(table) == pytest.approx((4 * 0.5 + 2 * 0.5) / 6) == pytest.approx(table["right"].mean())
    apart = answers(["a", "a", "b", "b"], ["x", "x", "y", "y"], ["x", "x", "y", "y"])
    assert guessed(apart) == 1 and guessed(table[:0]) is None


def test_scores_are_over_relations_never_asked_and_what_differs_from_the_world_is_told():
    table = pl.concat(
        [
            answers(["a"] * 3, ["x", "y", "z"], ["x", "y", "y"], world="y"),
            answers(["b"], ["x"], ["x"], form="trained", world="x"),
            answers(["a"], ["x"], ["x"], model="peer", world="x"),
        ]
    )
    found = knowledge_scores(table)
    raw = found["main"]["raw"]
    assert raw["all"].value == pytest.approx(2 / 3) and raw["all_relations"].value == pytest.approx(3 / 4)
    assert raw["differs"]["own"].value == 1 and raw["differs"]["world"].value == 0
    assert raw["differs"]["own"].rows == 1
    assert "differs" not in found["peer"]["raw"] and found["peer"]["raw"]["all"].value == 1


def test_models_that_differ_widen_the_interval_of_all_together():
    """As many right answers of the same entities, spread evenly over models or not."""
    names = [f"name {number}" for number in range(40)]

    def both(first: int, second: int) -> pl.DataFrame:
        marks = [["x"] * right + ["y"] * (40 - right) for right in (first, second)]
        parts = [answers(["a"] * 40, said, ["x"] * 40, model=model) for said, model in zip(marks, "ab", strict=True)]
        return pl.concat([part.with_columns(target=pl.Series(names)) for part in parts])

    even, uneven = (pooled_scores(both(*right))["raw"]["all"] for right in ((20, 20), (40, 0)))
    assert even.value == uneven.value == 0.5 and even.rows == 80 and even.entities == 40
    assert uneven.high - uneven.low > 2 * (even.high - even.low)
    assert pooled_scores(answers(["a"], ["x"], ["x"])) == {}
