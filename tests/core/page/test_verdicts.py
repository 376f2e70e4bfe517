"""What the page says of each condition."""

from typing import Any

import pytest

from stages.core.page.claims import verdict
from stages.core.page.groups import KNOWN, condition_of, groups_of, ordered
from tests.core.page.small import groups, numbers, one, with_differences


def all_three(value: float) -> str:
    """The three accuracies at one value, as a verdict says them."""
    return ", ".join(f"{name} {value}\u00a0%" for name in ("domain", "target", "answer"))


@pytest.mark.parametrize(
    ("key", "group", "holds", "text"),
    [
        (
            "decoupling",
            numbers(0.98),
            True,
            f"Above chance: {all_three(98.0)}; host intrusion 0\u00a0%",
        ),
        ("decoupling", numbers(0.02), False, f"Null: {all_three(2.0)}"),
        (
            "same_domain",
            numbers(0.97),
            True,
            f"Above chance: {all_three(97.0)}",
        ),
        (
            "same_domain",
            numbers(0.8),
            False,
            f"Above chance: {all_three(80.0)}; clearly below the first row in domain, target and answer",
        ),
        (
            "held_out_target",
            numbers(0.8),
            True,
            f"Above chance: {all_three(80.0)}; clearly below the first row in domain, target and answer",
        ),
        ("controls.zero", numbers(0.0, 0.0), True, "Null, as it must be"),
        ("controls.zero", numbers(0.0, 0.0, no_pressure=1), True, "Null, as it must be; no pressure in 100\u00a0%"),
        (
            "controls.zero",
            numbers(0.5, 0.1),
            False,
            f"Above chance: {all_three(50.0)}",
        ),
        ("controls.shuffled_within", numbers(0.2, 0.02), True, "Target falls to 20.0\u00a0%"),
        ("controls.shuffled_within", numbers(0.97, 0.02), False, "Target does not fall: only the domain is read"),
        ("controls.sign_flipped", numbers(0.5, 0.02), True, "Above chance: target 50.0\u00a0%, answer 50.0\u00a0%"),
        ("controls.sign_flipped", numbers(0.02, 0.02), False, "Null: target 2.0\u00a0%, answer 2.0\u00a0%"),
        ("controls.something_new", numbers(0.5, 0.02), None, ""),
        ("ceiling", numbers(0.9), None, "Against the real gradient: domain, target and answer lower"),
    ],
)
def test_verdicts(key: str, group: dict[str, Any], holds: bool | None, text: str) -> None:
    metrics: dict[str, Any] = {"decoupling": numbers(0.98), "controls": {"shuffled_across": numbers(0.02, 0.02)}}
    parent, _, name = key.rpartition(".")
    (metrics.setdefault(parent, {}) if parent else metrics)[name] = group
    found = groups(**metrics)
    said = verdict(found[key], found["decoupling"])
    assert (said.holds, said.text) == (holds, text)


def test_every_condition_says_what_would_falsify_it() -> None:
    assert all(one.label and one.given and one.shows and one.falsified for one in KNOWN.values())
    assert condition_of("controls.new_host").label == "New host"
    assert condition_of("ceiling.held_out_target").label == "Linear probe, held out target"
    opened, shut = (condition_of(f"controls.steering_vector{end}") for end in ("_ungated", ""))
    assert (opened.label, opened.expected) == ("Steering vector, gate open", shut.expected)


@pytest.mark.parametrize(
    ("key", "group", "holds", "text"),
    [
        (
            "controls.fine_tuned",
            with_differences(
                numbers(0.9, 0.02), domain=(0.1, 0.05, 0.15), target=(0.0, -0.02, 0.03), answer=(0.2, 0.1, 0.3)
            ),
            True,
            "Against the real gradient: domain 10.0 points lower (5.0\u201315.0), target null "
            "(\u22123.0 to 2.0 points), answer 20.0 points lower (10.0\u201330.0)",
        ),
        (
            "controls.steering_vector",
            with_differences(
                numbers(0.99, 0.02), domain=(0.0, 0, 0), target=(-0.05, -0.08, -0.02), answer=(0.2, 0.1, 0.3)
            ),
            False,
            "Against the real gradient: domain null (0.0 to 0.0 points), target 5.0 points higher (2.0\u20138.0), "
            "answer 20.0 points lower (10.0\u201330.0)",
        ),
        (
            "controls.shuffled_within",
            with_differences(numbers(0.2, 0.02), target=(0.78, 0.7, 0.8)),
            True,
            "Target falls to 20.0\u00a0%; on the same cases 78.0 points lower (70.0\u201380.0)",
        ),
        (
            "floor",
            {**numbers(0.98), "answer_accuracy": one(0.7, 0.6, 0.8)},
            None,
            "Against the real gradient: answer lower, domain and target null (the intervals overlap)",
        ),
        (
            "controls.steering_vector",
            {**numbers(0.98), "answer_accuracy": one(0.7, 0.6, 0.8)},
            True,
            "Against the real gradient: answer lower, domain and target null (the intervals overlap)",
        ),
        (
            "controls.steering_vector",
            numbers(0.98),
            False,
            "Against the real gradient: domain, target and answer null (the intervals overlap)",
        ),
        ("ceiling", numbers(0.999, spread=0.001), None, "Against the real gradient: domain, target and answer higher"),
        (
            "retrieval",
            numbers(0.98),
            None,
            "Against the real gradient: domain, target and answer null (the intervals overlap)",
        ),
        ("floor", {"target_accuracy": {"value": 0.5}}, None, ""),
    ],
)
def test_other_sources_are_held_against_the_real_gradient(
    key: str, group: dict[str, Any], holds: bool | None, text: str
) -> None:
    parent, _, name = key.rpartition(".")
    found = groups(decoupling=numbers(0.98), **({parent: {name: group}} if parent else {name: group}))
    said = verdict(found[key], found["decoupling"])
    assert (said.text, said.holds) == (text, holds)


def test_a_condition_that_has_to_be_alike_is_held_against_its_pairs() -> None:
    """Intervals that overlap hide a difference that pairs show; intervals that lie apart are of other cases."""
    host = with_differences(
        numbers(0.975, 0.02), domain=(0.0, 0, 0), target=(0.01, 0.004, 0.02), answer=(0.0, -0.01, 0.01)
    )
    found = groups(decoupling=numbers(0.98, 0.02), controls={"false_host": host})
    said = verdict(found["controls.false_host"], found["decoupling"])
    assert said.holds is False and said.text.endswith("; on the same cases target 1.0 points lower (0.4\u20132.0)")
    host = with_differences(numbers(0.9, 0.02), **dict.fromkeys(("domain", "target", "answer"), (0.001, -0.01, 0.01)))
    found = groups(decoupling=numbers(0.98, 0.02), controls={"false_host": host})
    assert verdict(found["controls.false_host"], found["decoupling"]).holds is True


@pytest.mark.parametrize("key", ["held_out_kind", "corrections", "controls.zero", "controls.fine_tuned", "ceiling"])
def test_a_group_of_too_few_entities_has_too_little_data_and_does_not_pass(key: str) -> None:
    reason = {"reason": "found 7 entities, wanted at least 10"}
    few = {name: {"value": whole["value"]} | reason for name, whole in numbers(0.98, 0.02).items()}
    parent, _, name = key.rpartition(".")
    found = groups(decoupling=numbers(0.98), **({parent: {name: few}} if parent else {name: few}))
    said = verdict(found[key], found["decoupling"])
    assert (said.holds, said.text) == (None, "Too little data: found 7 entities, wanted at least 10")


def test_the_first_row_is_the_decoupling_group_whatever_the_order_of_the_file() -> None:
    metrics = {
        "ceiling": numbers(0.9),
        "controls": {"new": numbers(0.1), "none": numbers(0.1)},
        "corrections": {"x": 1},
    }
    found = ordered(groups_of({**metrics, "decoupling": numbers(0.98)}))
    assert list(found) == ["decoupling", "corrections", "controls.none", "ceiling", "controls.new"]
