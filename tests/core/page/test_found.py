"""The paragraphs that the page draws from the numbers."""

from typing import Any

from stages.core.page.claims import findings
from stages.core.page.groups import Group
from tests.core.page.small import BADLY_SET, BESIDE, CARD, KNOWLEDGE, groups, numbers, with_differences

GOOD = {
    "decoupling": numbers(0.98, reports=1234),
    "controls": {"shuffled_across": numbers(0.02, 0.02), "zero": numbers(0, 0)},
}


def sentences(groups: dict[str, Group], subject: str = "the pocket model", **card: Any) -> list[str]:
    """What was asked, what was found, what is named and what was checked."""
    found = list(findings(groups, subject, {**CARD, **card}).values())
    assert [text for text in found if BADLY_SET.search(text)] == []
    return found


def test_the_sentences_say_the_numbers() -> None:
    asked, found, named, checked = sentences(groups(**GOOD, knowledge=KNOWLEDGE, edits=BESIDE["edits"]))
    assert "Does the pocket model, its weights frozen, answer" in asked and asked.endswith("?")
    assert found.split(". ") == [
        "In relations that slots were never asked about, 92.3\u00a0% (95\u00a0% interval 90.3\u201394.3) of answers "
        "are what it says of that name itself, and 99.1\u00a0% (97.1\u2013100) once it has said what the update moves "
        "away from and that part is taken out",
        "With another gradient in its place 3.2\u00a0% are; another model, given the same vectors, is right in "
        "3.7\u00a0%",
        "With no model, the nearest name looked up in the world's facts gives 90.0\u00a0%, but 0\u00a0% where the "
        "model's own fact is not the world's; there it says its own in 90.0\u00a0% (88.0\u201392.0)",
        "Other models, reading their own gradients: permuted 91.6\u00a0% (look-up 35.6\u00a0%)",
        "One fact changed in its weights flips its answer in 95.0\u00a0% of edits.",
    ]
    assert named.startswith("Asked what it feels, in 1\u202f234 reports behind a prompt of another domain it names")
    assert named.endswith("the prompt's domain instead in 0\u00a0% (0\u20131.0).")
    assert checked == "Of 2 controls that have to be at chance all are."


def test_what_is_trained_in_between_is_said() -> None:
    found = groups(**GOOD)
    assert "its weights frozen and nothing trained in between, answer" in sentences(found, architecture="raw")[0]
    assert "it, with LoRA on the verbaliser, answer" in sentences(found, "it", lora_on_the_verbaliser={"rank": 8})[0]


def test_without_questions_to_its_knowledge_the_page_says_so() -> None:
    assert sentences(groups(**GOOD))[1].startswith("No question was asked that takes the model's own knowledge")


def test_where_the_model_is_not_missed_is_said_as_plainly_as_where_it_helps() -> None:
    gaps = {"domain": (-0.03, -0.05, -0.01), "target": (0.0, -0.01, 0.01), "answer": (0.1, 0.05, 0.15)}
    named = sentences(groups(**GOOD, without_model=with_differences(numbers(0.97), **gaps)))[2]
    assert "The nearest names, with no model, are right in 97.0\u00a0%, 97.0\u00a0% and 97.0\u00a0%." in named
    assert named.endswith(
        "Here the model helps with the name moved away from, costs the domain and is not missed for the name moved "
        "toward."
    )


def test_an_effect_at_chance_is_said_to_be_null() -> None:
    metrics = {"decoupling": numbers(0.02), "controls": {"shuffled_across": numbers(0.02, 0.02)}}
    named = sentences(groups(**metrics))[2]
    assert named.count("(null: the interval includes chance, 2.0\u00a0%)") == 3
    flipped = {**GOOD, "controls": {**GOOD["controls"], "sign_flipped": numbers(0.02, 0.02)}}
    assert "does not swap the report: 2.0\u00a0% (1.0\u20133.0) (null" in sentences(groups(**flipped))[3]


def test_a_control_above_chance_stands_in_the_sentence() -> None:
    metrics = {**GOOD, "controls": {**GOOD["controls"], "random": numbers(0.3, 0.1)}}
    checked = sentences(groups(**metrics))[3]
    assert checked.startswith(
        "Of 3 controls that have to be at chance 2 are. Against the claim, above it: random vectors"
    )
    assert "random vectors in domain, target and answer" in checked


def test_names_and_kinds_held_out_stand_in_the_sentence() -> None:
    metrics = {
        **GOOD,
        "held_out_target": numbers(0.92),
        "held_out_kind": numbers(0.9),
        "controls": {**GOOD["controls"], "sign_flipped": numbers(0.97)},
    }
    assert sentences(groups(**metrics))[3].split(". ")[1:] == [
        "Flipping the gradient's sign swaps the report in 97.0\u00a0% (96.0\u201398.0)",
        "A name held out of all training with slots is named in 92.0\u00a0% (91.0\u201393.0), one of a held-out kind "
        "in 90.0\u00a0% (89.0\u201391.0).",
    ]


def test_controls_of_too_few_entities_are_not_said_to_be_at_chance() -> None:
    few = {"target_accuracy": {"value": 0.0, "reason": "found 4 entities"}}
    checked = sentences(groups(decoupling=numbers(0.98), controls={"zero": few}))[3]
    assert checked == "Of too few entities to say whether they are at chance are zero gradient."


def test_without_controls_the_page_says_so() -> None:
    assert "No control was scored" in sentences(groups(decoupling=numbers(0.98)))[3]
