import pytest

from stages.core.evaluate.estimate import Estimate
from stages.core.page.groups import groups_of
from stages.core.page.prose import at_most, bare, percent, span, thousands, told, whole


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
    assert told(Estimate(0.9, 0.85, 1)) == "90.0\u00a0% (85.0\u2013100)"
    assert told(Estimate(0.9)) == "90.0\u00a0%"
    assert span(0, 0.0123) == "0\u20131.2"
    assert thousands(1234567) == "1\u202f234\u202f567"


def test_groups_are_found_at_any_depth_and_a_plain_number_is_an_estimate_with_nothing_beside_it() -> None:
    metrics = {"a": {"x": {"value": 0.5, "low": 0.4, "high": 0.6}, "n": 3}, "b": {"c": {"y": {"value": 0.2}}}}
    groups = {group.key: group for group in groups_of(metrics)}
    assert list(groups) == ["a", "b.c"]
    assert groups["a"].estimates == {"x": Estimate(0.5, 0.4, 0.6), "n": Estimate(3)}
    assert groups["b.c"]["y"] == Estimate(0.2)


def test_the_reason_stands_where_the_interval_would() -> None:
    spoken, gap = {"value": 0.25, "low": 0.2, "high": 0.3}, {"value": 0.1, "reason": "found 3 entities"}
    target = {"value": 0.5, "reason": "found 4 entities", "spoken": spoken, "difference": gap}
    (group,) = groups_of({"target_accuracy": target, "reports": 12})
    one = group["target_accuracy"]
    assert group.few == "found 4 entities" and group.reports == 12
    assert told(one) == "50.0\u00a0% (found 4 entities)"
    assert one.spoken is not None and told(one.spoken) == "25.0\u00a0% (20.0\u201330.0)"
    assert one.difference is not None and one.difference.reason == "found 3 entities"
    assert group["reports"].reason is None


def test_an_upper_bound_rounds_up() -> None:
    assert [at_most(bound) for bound in (0.00462, 0.003, 0.00291, 1)] == [
        f"{text}\u00a0%" for text in ("0.47", "0.30", "0.30", "100.00")
    ]
