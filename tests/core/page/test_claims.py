"""The sentences of claims that no condition makes."""

from typing import Any

import pytest

from stages.core.page.claims import Claim, claims
from stages.core.page.groups import groups_of
from stages.core.page.prose import entries
from tests.core.page.small import BADLY_SET, BESIDE, GROUNDING, explained, groups, numbers, one, with_differences

REAL = numbers(0.98, spoken=0.99, reports=1234, malformed=0.01, no_pressure=0.02, vague=0.004)
METRICS: dict[str, Any] = {
    **BESIDE,
    **GROUNDING,
    "decoupling": REAL | {"calibration_error": one(0.024, 0.014, 0.035)},
    "held_out_kind": {"calibration_error": one(0.307, 0.278, 0.33)},
    "without_model": numbers(0.98),
    "floor": numbers(0.98) | {"held_out_target": with_differences(numbers(0.99), target=(-0.05, -0.09, -0.01))},
    "ceiling": numbers(0.98),
    "controls": {
        "fine_tuned": numbers(0.67, spoken=0.94, no_pressure=0.286),
        "steering_vector": numbers(0.02, spoken=0.43, no_pressure=0.96),
        "zero": numbers(0.0, 0.0, no_pressure=1.0, reports_spoken=0),
    },
}


def made(key: str, **changed: Any) -> list[Claim]:
    """The claims of a group, with some of its numbers changed or, where None, taken out."""
    group = {name: value for name, value in {**BESIDE[key], **changed}.items() if value is not None}
    return claims({one.key: one for one in groups_of({key: group})})


def test_every_claim_says_its_numbers_in_short_sentences_and_what_would_falsify_it() -> None:
    found = claims(groups(**METRICS))
    assert [one.label for one in found] == [entry["label"] for entry in entries("claims.yaml").values()]
    assert all(one.text.endswith(".") and one.falsified for one in found)
    sentences = [sentence for one in found for sentence in one.text.split(". ")]
    assert [sentence for sentence in sentences if len(sentence.split()) > 50] == []
    assert [one.text for one in found if BADLY_SET.search(one.text)] == []
    holds = {one.label: one.holds for one in found}
    assert [label for label, one in holds.items() if one] == [
        *("Knowledge of what is felt", "Whose knowledge", "One fact edited", "Words that are what the gradient does"),
        "Where no lens reads",
        *("Gradients that correct no fact", "Detection", "Circularity"),
    ]
    texts = {one.label: one.text for one in found}
    assert "reported of 98.2\u00a0% (97.1\u201399.2) of real gradients. It is reported in 1 of" in texts["Detection"]
    assert "in 1 of 3\u202f072 reports" in texts["Detection"]
    assert "on 1\u202f024 distinct shams" in texts["Detection"]
    assert (
        "1 of these shams is reported by any projector, so that of such shams at most 0.47\u00a0% are (95\u00a0%)."
        in (texts["Detection"])
    )
    assert "For 17 gradients the teacher" in texts["Circularity"]
    assert "reports name the known one in 84.8\u00a0% (61.5\u201395.5)" in texts["Circularity"]
    assert "the label's in 12.1\u00a0% (2.4\u201330.8)." in texts["Circularity"]
    assert "cosine of 0.43 (0.42 to 0.44)" in texts["Steering vectors"]
    assert "54.1\u00a0% (48.0\u201360.0) and 4.9\u00a0% (2.0\u20138.0) at a step of 0.5" in texts["Steering vectors"]
    assert (
        "1.0\u00a0% can't be read as a report, 2.0\u00a0% say that there is no pressure and 0.4\u00a0% tell of"
        in (texts["Reports that say nothing"])
    )


def test_words_are_held_against_what_else_could_stand_there() -> None:
    report = GROUNDING["grounding"]["target_1_words"]["report"]
    (found,) = claims(groups(**GROUNDING))
    assert found.text.startswith(
        "The names in its report, and nothing else of it, explain 92.7\u00a0% (91.2\u201394.2)"
    )
    assert "no text 0.9\u00a0%, another report \u221289.0\u00a0%, the prompt \u221241.0\u00a0%" in found.text
    assert "it is 90.5\u00a0% (89.0\u201392.0), toward held-out names 90.5" in found.text
    assert "never learned (setting forms of section grounding): order 90.0\u00a0%, words 46.0\u00a0%." in found.text
    assert "on the correction: at the prompt in 96.0\u00a0% (85.0\u2013100), in another template in 96.0" in found.text
    assert "Heads of other seeds: 90.4\u00a0%, 90.2\u00a0%." in found.text
    for short in (explained(0.91, 0.89), explained(0.927, 0.87)):  # an interval below .90, and names held out too far
        words = GROUNDING["grounding"]["target_1_words"] | {"report": report | short}
        (found,) = claims(groups(grounding={"target_1_words": words}))
        assert found.holds is False


def test_knowledge_is_held_against_another_gradient_another_model_and_a_dictionary() -> None:
    texts = {one.label: one.text for one in claims(groups(**BESIDE))}
    said = texts["Knowledge of what is felt"]
    assert said.startswith(
        "With the update in a name's place, 92.3\u00a0% (90.3\u201394.3) of answers are what the model says"
    )
    assert (
        "92.3\u00a0% (90.3\u201394.3) about names held out and 92.3\u00a0% (90.3\u201394.3) about kinds held out"
        in said
    )
    assert (
        "With another gradient in its place 3.2\u00a0% (1.2\u20135.2) are, where answers dealt at random give 4.1"
        in said
    )
    assert "The model permuted, given the same vectors, says its own answer in 3.7\u00a0%" in said
    said = texts["Whose knowledge"]
    assert "says its own in 90.0\u00a0% (88.0\u201392.0) and the world's in 1.0\u00a0% (0\u20133.0)" in said
    assert (
        "looked up in the world's facts, gives 0\u00a0% (0\u20132.0). The model permuted says its own there in 93.1"
        in said
    )
    assert said.endswith("the look-up in 0.2\u00a0% (0\u20132.2).")
    assert "In 20 trials one fact was changed" in texts["One fact edited"]


@pytest.mark.parametrize(("low", "holds"), [(0.8, True), (0.4, False), (None, None)])
def test_an_edit_has_to_flip_most_answers(low: float | None, holds: bool | None) -> None:
    flips = {"value": 0.9} if low is None else one(0.9, low, 1.0)
    assert made("edits", flips=flips)[0].holds is holds


def test_without_intervals_nothing_follows_from_knowledge() -> None:
    bare = {
        "all": {"value": 0.9, "reason": "found 4 entities"},
        "differs": {"own": {"value": 0.9}, "world": {"value": 0.1}},
    }
    found = claims(groups(knowledge={"main": {"raw": bare, "shuffled": bare}}))
    assert [one.holds for one in found] == [None, None]


def test_confidence_is_said_to_be_off_by_as_much_as_in_its_worst_group() -> None:
    text = next(one.text for one in claims(groups(**METRICS)) if one.label == "Calibration")
    assert (
        "2.4 points (1.4\u20133.5) on gradients after hosts of another domain, by 30.7 points (27.8\u201333.0) in the"
        in text
    )
    assert "worst group (kind held out)" in text
    assert "and by 3.4 points on those gradients and shams together" in text


def test_what_is_lower_only_by_silence_is_said_to_rest_on_abstention() -> None:
    text = next(one.text for one in claims(groups(**METRICS)) if one.label == "Abstention")
    assert (
        "difference after fine-tuning (67.0\u00a0% of all, 94.0\u00a0% of those that speak, 28.6\u00a0% silent)" in text
    )
    assert text.endswith("Such a difference rests on abstention.")
    assert "held out" not in text and "steering" not in text and "zero" not in text
    without = {**METRICS, "controls": {}}
    text = next(one.text for one in claims(groups(**without)) if one.label == "Abstention")
    assert text == "No target accuracy is lower than that of real gradients mostly because reports are silent."


@pytest.mark.parametrize(
    ("key", "changed", "said"),
    [
        ("detection", {"rate": one(0.982, 0.0, 0.992)}, "Null: shams may be reported as often."),
        ("circularity", {"says_label": one(0.121, 0.024, 0.9)}, "The intervals overlap, so the difference is null."),
    ],
)
def test_what_is_null_is_said_to_be(key: str, changed: dict[str, float], said: str) -> None:
    assert any(said in claim.text and claim.holds is False for claim in made(key, **changed))


def test_what_could_not_be_measured_is_said_to_be() -> None:
    few = dict.fromkeys([name for name in BESIDE["circularity"] if name.startswith("says_")])
    assert "nothing can be said" in made("circularity", **few, gradients=1)[0].text
    (bare,) = made("circularity", says_correction={"value": 0.848}, says_label={"value": 0.121})
    assert "in 84.8\u00a0% and the label's in 12.1\u00a0%. These are of too few targets" in bare.text
    assert bare.holds is None
    assert "nothing can be said" in made("steering", rows=0, cosine=None)[0].text
    silent = made("detection", false_alarms=0, shams_reported=0)[0].text
    assert "in none of 3\u202f072" in silent and "None of these shams is reported by any projector" in silent


def test_too_few_targets_are_said_to_be_once() -> None:
    known, label = ({"value": value, "reason": "found 7 entities"} for value in (0.848, 0.121))
    (claim,) = made("circularity", says_correction=known, says_label=label)
    assert claim.text.count("found 7 entities") == 1 and claim.holds is None
