"""Silence is held apart from what is read badly, and a claim that rests on it does not hold."""

from typing import Any

import pytest

from stages.core.page.claims import compare, verdict
from tests.core.page.small import groups, numbers, with_differences

REAL = numbers(0.99, chance=0.1, spoken=0.99, no_pressure=0.0)
FEW: dict[str, Any] = numbers(0.0, no_pressure=0.97) | {"reports_spoken": 8}
FEW["target_accuracy"]["spoken"] = {"value": 0.5}


def said(key: str, group: dict[str, Any]) -> tuple[bool | None, str]:
    """The verdict of a group."""
    parent, _, name = key.rpartition(".")
    found = groups(decoupling=REAL, **({parent: {name: group}} if parent else {name: group}))
    one = verdict(found[key], found["decoupling"])
    return one.holds, one.text


def test_a_control_that_is_lower_only_by_silence_breaks_the_claim() -> None:
    holds, text = said(
        "controls.fine_tuned", with_differences(numbers(0.67, spoken=0.95, no_pressure=0.3), target=(0.32, 0.2, 0.4))
    )
    assert holds is False
    assert "target 32.0 points lower (20.0\u201340.0)" in text
    assert "silent in 30.0\u00a0%, of those that speak target 95.0\u00a0% (94.0\u201396.0) against 99.0\u00a0%" in text
    assert text.endswith("the difference rests mostly on abstention")


def test_a_control_that_is_lower_where_it_speaks_keeps_the_claim_and_its_silence_is_said() -> None:
    holds, text = said("controls.activation", numbers(0.02, spoken=0.05, no_pressure=0.95))
    assert holds is True and text == (
        "Target falls to 2.0\u00a0%; silent in 95.0\u00a0%, of those that speak target 5.0\u00a0% (4.0\u20136.0) "
        "against 99.0\u00a0%"
    )


def test_where_too_few_speak_nothing_follows() -> None:
    holds, text = said("controls.activation", FEW)
    assert holds is None and text.endswith("too few speak to tell more")


def test_a_held_out_group_that_is_lower_by_silence_is_said_to_be() -> None:
    holds, text = said("held_out_kind", numbers(0.35, chance=0.1, spoken=0.98, no_pressure=0.64))
    assert holds is True and "clearly below the first row in domain, target and answer; silent in 64.0\u00a0%" in text
    assert text.endswith("rests mostly on abstention")


@pytest.mark.parametrize(
    ("group", "how"),
    [
        (numbers(0.67, spoken=0.985, no_pressure=0.3), "yes"),  # intervals overlap where they speak
        (numbers(0.67, spoken=0.90, no_pressure=0.3), "yes"),  # 9 of 32 points are left
        (numbers(0.67, spoken=0.80, no_pressure=0.3), "no"),  # 19 are
        (numbers(0.67, spoken=0.985, no_pressure=0.005), "no"),  # nothing is silent
        (numbers(0.67, no_pressure=0.3), "no"),  # not measured
        (FEW, "unknown"),
    ],
)
def test_a_difference_rests_on_silence_where_most_of_it_goes_among_reports_that_speak(
    group: dict[str, Any], how: str
) -> None:
    found = groups(decoupling=REAL, controls={"fine_tuned": group})
    assert compare(found["controls.fine_tuned"], found["decoupling"], "target_accuracy").rests == how
