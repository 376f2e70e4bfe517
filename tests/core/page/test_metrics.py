import pytest

from stages.core.page.metrics import Estimate, at_most, bare, groups_of, percent, span, thousands, whole


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "100"), (0.5, "50.0"), (0.9996, "> 99.9"), (0.9994, "99.9"), (0.0004, "< 0.1"), (0.0006, "0.1")],
)
def test_percentages_never_round_to_what_they_are_not(value: float, text: str) -> None:
    assert bare(value) == text
    assert percent(value) == f"{text}\u00a0%"


def test_cells_of_the_heatmap_never_round_to_what_they_are_not() -> None:
    assert [whole(value) for value in (0, 0.001, 0.456, 0.999, 1)] == ["0", "1", "46", "99", "100"]


def test_numbers_in_sentences() -> None:
    assert str(Estimate("x", 0.9, 0.85, 1)) == "90.0\u00a0% (85.0\u2013100)"
    assert str(Estimate("x", 0.9)) == "90.0\u00a0%"
    assert span(0, 0.0123) == "0\u20131.2"
    assert thousands(1234567) == "1\u202f234\u202f567"


@pytest.mark.parametrize(
    ("low", "high", "chance", "standing"),
    [
        (0.2, 0.3, 0.1, "above"),
        (0.1, 0.3, 0.1, "at"),
        (0, 0, 0, "at"),
        (0.0, 0.05, 0.1, "below"),
        (0.1, 0.2, None, "unknown"),
    ],
)
def test_an_interval_that_includes_chance_is_null(low: float, high: float, chance: float | None, standing: str) -> None:
    assert Estimate("x", (low + high) / 2, low, high, chance).standing == standing


def test_groups_are_found_at_any_depth_and_qualifiers_stand_beside_their_number() -> None:
    metrics = {"a": {"x": 0.5, "x_low": 0.4, "x_high": 0.6, "alone_low": 0.1}, "b": {"c": {"y": 0.2, "y_chance": 0.1}}}
    groups = {group.key: group for group in groups_of(metrics)}
    assert list(groups) == ["a", "b.c"]
    assert groups["a"].estimates == {"x": Estimate("x", 0.5, 0.4, 0.6), "alone_low": Estimate("alone_low", 0.1)}
    assert groups["b.c"]["y"] == Estimate("y", 0.2, chance=0.1)


def test_the_reason_for_a_missing_interval_is_no_estimate() -> None:
    groups = list(groups_of({"a": {"x": 0.5, "no_interval": "found 4 entities"}, "b": {"no_interval_spoken": "none"}}))
    assert [(group.key, group.estimates) for group in groups] == [
        ("a", {"x": Estimate("x", 0.5, reason="found 4 entities")})
    ]


def test_the_reason_stands_where_the_interval_would() -> None:
    metrics = {
        "target_accuracy": 0.5,
        "target_accuracy_spoken": 0.25,
        "target_accuracy_spoken_low": 0.2,
        "target_accuracy_spoken_high": 0.3,
        "target_accuracy_difference": 0.1,
        "reports": 12,
        "no_interval": "found 4 entities",
        "no_interval_difference": "found 3 entities",
    }
    (group,) = groups_of(metrics)
    assert group.few == "found 4 entities"
    assert str(group["target_accuracy"]) == "50.0\u00a0% (found 4 entities)"
    assert str(group["target_accuracy_spoken"]) == "25.0\u00a0% (20.0\u201330.0)"
    assert group["target_accuracy_difference"].reason == "found 3 entities"
    assert group["reports"].reason == ""


def test_a_bound_without_its_other_end_is_a_number_of_its_own() -> None:
    (group,) = groups_of({"false_alarms": 1, "false_alarms_high": 0.00462})
    assert group["false_alarms"] == Estimate("false_alarms", 1)
    assert group["false_alarms_high"].value == 0.00462


def test_an_upper_bound_rounds_up() -> None:
    assert [at_most(bound) for bound in (0.00462, 0.003, 0.00291, 1)] == [
        f"{text}\u00a0%" for text in ("0.47", "0.30", "0.30", "100.00")
    ]
