"""The three sentences that the page draws from the numbers."""

from stages.core.page.claims import findings
from stages.core.page.metrics import Group
from tests.core.page.small import BADLY_SET, groups, numbers

GOOD = {
    "decoupling": numbers(0.98, reports=1234),
    "controls": {"shuffled_across": numbers(0.02, 0.02), "zero": numbers(0, 0)},
}


def sentences(groups: dict[str, Group], subject: str, lora: bool) -> list[str]:
    """What was asked, what was found and what was checked."""
    found = list(findings(groups, subject, lora).values())
    assert [text for text in found if BADLY_SET.search(text)] == []
    return found


def test_the_sentences_say_the_numbers() -> None:
    asked, found, checked = sentences(groups(**GOOD, ceiling=numbers(0.997)), "the pocket model", False)
    assert "the pocket model" in asked and asked.endswith("?")
    assert found.startswith("In 1\u202f234 reports") and "98.0\u00a0% (95\u00a0% interval 97.0\u201399.0)" in found
    assert "named instead in 0\u00a0% (0\u20131.0), which is null: the interval includes zero." in found
    assert checked.startswith(
        "Of 2 controls that have to be at chance all are: shuffled across domains and zero gradient."
    )
    assert "A linear probe on the same gradients reads the target in 99.7\u00a0%" in checked
    assert asked.count(". ") == found.count(". ") == 0 and checked.endswith(".")


def test_an_effect_at_chance_is_said_to_be_null() -> None:
    metrics = {"decoupling": numbers(0.02), "controls": {"shuffled_across": numbers(0.02, 0.02)}}
    _, found, _ = sentences(groups(**metrics), "it", False)
    assert found.count("(null: the interval includes chance, 2.0\u00a0%)") == 3
    flipped = {**GOOD, "controls": {**GOOD["controls"], "sign_flipped": numbers(0.02, 0.02)}}
    assert "does not swap the report: 2.0\u00a0% (1.0\u20133.0) (null" in sentences(groups(**flipped), "it", False)[2]


def test_a_control_above_chance_stands_in_the_sentence() -> None:
    metrics = {**GOOD, "controls": {**GOOD["controls"], "random": numbers(0.3, 0.1)}}
    _, _, checked = sentences(groups(**metrics), "it", False)
    assert "Of 3 controls that have to be at chance 2 are: shuffled across domains and zero gradient" in checked
    assert "Against the claim, above it: random vectors in domain, target and answer" in checked


def test_words_never_trained_on_and_the_lens_stand_in_the_sentence() -> None:
    metrics = {
        **GOOD,
        "held_out_target": numbers(0.92),
        "held_out_entity": numbers(0.9),
        "controls": {**GOOD["controls"], "sign_flipped": numbers(0.97)},
        "ceiling": numbers(1.0),
        "floor": {**numbers(0.984), "held_out_target": numbers(0.999)},
    }
    _, _, checked = sentences(groups(**metrics), "it", False)
    assert (
        "never had as one is named in 92.0\u00a0% (91.0\u201393.0), and one that no training label names in" in checked
    )
    assert "Flipping the gradient's sign swaps the report in 97.0\u00a0% (96.0\u201398.0). A linear" in checked
    assert "The untrained lens reads the target in 98.4\u00a0%, and targets never trained on in 99.9\u00a0%." in checked


def test_controls_of_too_few_entities_are_not_said_to_be_at_chance() -> None:
    few = {"target_accuracy": {"value": 0.0, "reason": "found 4 entities"}}
    _, _, checked = sentences(groups(decoupling=numbers(0.98), controls={"zero": few}), "it", False)
    assert checked == "Of too few entities to say whether they are at chance are zero gradient."


def test_without_controls_the_page_says_so() -> None:
    assert "No control was scored" in sentences(groups(decoupling=numbers(0.98)), "it", False)[2]
