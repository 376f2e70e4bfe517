"""The sentences and verdicts that the page draws from the numbers."""

from typing import Any

import pytest

from stages.core.page.conditions import KNOWN, condition_of, verdict
from stages.core.page.found import sentences
from stages.core.page.metrics import MEASURES, Group, groups_of
from stages.core.page.page import held_against_chance


def numbers(value: float, chance: float | None = None, spread: float = 0.01, **others: float) -> dict[str, Any]:
    """A group whose three accuracies are `value`."""
    found: dict[str, Any] = {"host_intrusion": 0.0, "host_intrusion_low": 0.0, "host_intrusion_high": 0.01}
    for name in MEASURES[:3]:
        found |= {name: value, f"{name}_low": max(0.0, value - spread), f"{name}_high": min(1.0, value + spread)}
        if chance is not None:
            found[f"{name}_chance"] = chance
    return {**found, **others}


def groups(**metrics: Any) -> dict[str, Group]:
    return held_against_chance({group.key: group for group in groups_of(metrics)})


GOOD = {
    "decoupling": numbers(0.98, reports=1234),
    "controls": {"shuffled_across": numbers(0.02, 0.02), "zero": numbers(0, 0)},
}


def test_the_sentences_say_the_numbers() -> None:
    asked, found, checked = sentences(groups(**GOOD, ceiling=numbers(0.997)), "the pocket model")
    assert "the pocket model" in asked and asked.endswith("?")
    assert found.startswith("In 1\u202f234 reports") and "98.0\u00a0% (95\u00a0% interval 97.0\u201399.0)" in found
    assert "named instead in 0\u00a0% (0\u20131.0), which is null: the interval includes zero." in found
    assert checked.startswith(
        "Of 2 controls that have to be at chance all are: shuffled across domains and zero gradient;"
    )
    assert "a linear probe on the same gradients reads the target in 99.7\u00a0%" in checked
    assert all(sentence.count(". ") == 0 for sentence in (asked, found, checked))


def test_an_effect_at_chance_is_said_to_be_null() -> None:
    metrics = {"decoupling": numbers(0.02), "controls": {"shuffled_across": numbers(0.02, 0.02)}}
    _, found, _ = sentences(groups(**metrics), "it")
    assert found.count("(null: the interval includes chance, 2.0\u00a0%)") == 3
    flipped = {**GOOD, "controls": {**GOOD["controls"], "sign_flipped": numbers(0.02, 0.02)}}
    assert "does not swap the report: 2.0\u00a0% (1.0\u20133.0) (null" in sentences(groups(**flipped), "it")[2]


def test_a_control_above_chance_stands_in_the_sentence() -> None:
    metrics = {**GOOD, "controls": {**GOOD["controls"], "random": numbers(0.3, 0.1)}}
    _, _, checked = sentences(groups(**metrics), "it")
    assert "Of 3 controls that have to be at chance 2 are: shuffled across domains and zero gradient" in checked
    assert "against the claim, above it: random vectors in domain, target and answer" in checked


def test_without_controls_the_page_says_so() -> None:
    assert "No control was scored" in sentences(groups(decoupling=numbers(0.98)), "it")[2]


@pytest.mark.parametrize(
    ("key", "group", "holds", "text"),
    [
        ("decoupling", numbers(0.98), True, "Above chance; host intrusion null"),
        ("decoupling", numbers(0.02), False, "Null in domain, target and answer"),
        ("same_domain", numbers(0.97), True, "Above chance"),
        ("same_domain", numbers(0.8), False, "Above chance; clearly below the first row in domain, target and answer"),
        (
            "held_out_target",
            numbers(0.8),
            True,
            "Above chance; clearly below the first row in domain, target and answer",
        ),
        ("controls.zero", numbers(0.0, 0.0), True, "Null, as it must be"),
        ("controls.zero", numbers(0.0, 0.0, no_pressure=1), True, "Null, as it must be; no pressure in 100\u00a0%"),
        ("controls.zero", numbers(0.5, 0.1), False, "Above chance in domain, target and answer"),
        ("controls.shuffled_within", numbers(0.2, 0.02), True, "Target falls to 20.0\u00a0%"),
        ("controls.shuffled_within", numbers(0.97, 0.02), False, "Target does not fall: only the domain is read"),
        ("controls.sign_flipped", numbers(0.5, 0.02), True, "Above chance"),
        ("controls.sign_flipped", numbers(0.02, 0.02), False, "Null in target and answer"),
        ("controls.something_new", numbers(0.5, 0.02), None, ""),
        ("ceiling", numbers(0.9), None, ""),
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
