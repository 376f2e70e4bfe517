"""The local teacher reads shifts by its stated rules and sees nothing else."""

from typing import Any

import pytest

from stages.core.data.facts import Domain
from stages.core.data.summaries import NO_NAME, form_of
from stages.core.labels.lexicon import Lexicon
from stages.labellers.local import NO_SHIFT, READABLE, read_shift
from tests.labellers.world import ENTITIES, STEP_SIZES, step


def domain_of(name: str, entities: list[str]) -> Domain:
    facts = [{"subject": f"s{number}", "answer": entity} for number, entity in enumerate(entities)]
    thing = {
        "source": "",
        "subject": "subject",
        "answer": "thing",
        "templates": ("{subject} is", "{subject} has"),
        "facts": facts,
    }
    return Domain.model_validate({"domain": name, "description": "", "relations": {"thing": thing}})


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(domain_of(name, entities) for name, entities in ENTITIES.items())


def moved(label: dict[str, Any]) -> tuple[str, str, str]:
    return label["domain"], label["moved_from"], label["moved_to"]


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("Paris .", "Paris"),
        (" paris, the", "Paris"),
        ("the city of Paris", "Paris"),
        ("New York and New Zealand", "New York"),
        ("Guinea Bissau .", "Guinea Bissau"),
        ("Guinea . Bissau Paris", "Guinea Bissau"),  # punctuation separates no words: tokenizers space it freely
        ("Guinea and", "Guinea"),
        ("New Zea", "New Zealand"),  # cut
        ("New", ""),  # two names begin so
        ("Pa", ""),  # too short to be sure
        ("Parisian", ""),
        ("Sao Tome", ""),
        ("são tomé", "São Tomé"),
        ("CO is", "CO"),
        ("Co is", "Co"),
        ("", ""),
        (". , !", ""),
    ],
)
def test_a_text_names_its_first_and_longest_entity(lexicon: Lexicon, text: str, entity: str):
    assert lexicon.named(text) == entity


@pytest.mark.parametrize(
    ("after", "up", "target"),
    [
        (["Venus .", "New York .", "New York ."], [], "New York"),  # most steps
        (["Venus .", "New York .", "Paris ."], ["New", "York"], "New York"),  # as many: the tokens
        (["Venus .", "New York .", "Paris ."], ["quickly"], "Venus"),  # no token speaks: the smallest step
    ],
)
def test_most_steps_name_the_target_then_the_tokens_then_the_smallest_step(
    lexicon: Lexicon, after: list[str], up: list[str], target: str
):
    shift = {"up_tokens": up, "up_shifts": [1.0] * len(up)}
    steps = [step(size=size, continuation_after=text, **shift) for size, text in zip(STEP_SIZES, after, strict=True)]
    assert read_shift(steps, lexicon)["moved_to"] == target


def test_the_smallest_step_that_changes_the_continuation_names_the_target(lexicon: Lexicon):
    after = ["Paris .", "New York .", "Venus ."]
    steps = [step(size=size, continuation_after=text) for size, text in zip(STEP_SIZES, after, strict=True)]
    label = read_shift(steps, lexicon)
    assert moved(label) == ("geography", "Paris", "New York")
    assert label["summary"] == form_of("a").format(domain="geography", away="Paris", to="New York")
    assert label["confidence"] == pytest.approx(1 / 3 / 2)  # one step of three, and no token speaks for it


def test_a_change_into_no_entity_is_passed_over(lexicon: Lexicon):
    after = ["a city", "New York .", "New York ."]
    steps = [step(size=size, continuation_after=text) for size, text in zip(STEP_SIZES, after, strict=True)]
    assert moved(read_shift(steps, lexicon)) == ("geography", "Paris", "New York")


def test_without_a_change_the_tokens_decide_and_pieces_add_up(lexicon: Lexicon):
    moves = {"up_tokens": ["New", "York", "Venus"], "up_shifts": [3.0, 2.0, 1.0], "kl": READABLE}
    label = read_shift([step(size=size, **moves, down_shifts=[-0.1, -0.1]) for size in STEP_SIZES], lexicon)
    assert moved(label) == ("geography", "Paris", "New York")
    york, zealand, venus = (3 * 3 / 7 + 2 * 4 / 7 / 2) / 3, 3 * 3 / 10 / 3, 1 / 3
    assert label["confidence"] == pytest.approx((1 + york / (york + max(zealand, venus))) / 2)


def test_without_an_entity_before_the_down_tokens_name_what_was_left(lexicon: Lexicon):
    moves = {"continuation_before": "a town", "down_tokens": ["Ven", "of"], "down_shifts": [-2.0, -3.0]}
    label = read_shift([step(**moves, continuation_after="Saturn .")], lexicon)
    assert moved(label) == ("astronomy", "Venus", "Saturn")


@pytest.mark.parametrize(("before", "domain"), [("helium", "chemistry"), ("Venus", "astronomy")])
def test_the_partner_decides_between_an_entity_s_domains(lexicon: Lexicon, before: str, domain: str):
    label = read_shift([step(continuation_before=before, continuation_after="Mercury .")], lexicon)
    assert label["domain"] == domain


def test_tokens_decide_between_domains_when_the_partner_does_not(lexicon: Lexicon):
    moves = {"up_tokens": ["Mercury", "Saturn"], "up_shifts": [5.0, 1.0], "continuation_before": "it"}
    label = read_shift([step(**moves, down_tokens=["of"], down_shifts=[-1.0], continuation_after="Mercury")], lexicon)
    assert moved(label) == ("astronomy", "", "Mercury")
    assert label["summary"] == "toward Mercury , in astronomy"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"up_shifts": [5.0, 0.0], "kl": 0.99 * READABLE},
        {"up_tokens": [], "up_shifts": [], "down_tokens": [], "down_shifts": []},
        {"continuation_before": "", "continuation_after": ""},
    ],
)
def test_an_unmoved_or_empty_shift_is_no_correction(lexicon: Lexicon, columns: dict[str, Any]):
    label = read_shift([step(size=size, **columns) for size in STEP_SIZES], lexicon)
    assert moved(label) == ("", "", "") and label["confidence"] == 0 and label["summary"] == NO_SHIFT


def test_one_readable_step_is_enough_for_all(lexicon: Lexicon):
    moves = {"up_tokens": ["Venus"], "up_shifts": [5.0], "down_tokens": [], "down_shifts": []}
    steps = [step(size=size, **moves, kl=READABLE * (size == max(STEP_SIZES))) for size in STEP_SIZES]
    assert moved(read_shift(steps, lexicon)) == ("astronomy", "Paris", "Venus")


def test_a_shift_of_unknown_words_names_nothing(lexicon: Lexicon):
    moves = {"continuation_before": "zig", "continuation_after": "zag", "down_tokens": [], "down_shifts": []}
    label = read_shift([step(**moves, up_tokens=["zag"], up_shifts=[4.0])], lexicon)
    assert moved(label) == ("", "", "") and label["confidence"] == 0
    assert label["summary"] == NO_NAME
