"""Intervals, bounds and chance, on cases whose answer is known."""

import math

import numpy as np
import pytest

from stages.core.evaluate.estimate import Estimate
from stages.core.evaluate.statistics import (
    BINS,
    FEWEST,
    GAP,
    SHARE,
    Bounds,
    calibration,
    calibration_error,
    chance,
    estimates,
    exact_high,
    interval,
)
from tests.benchmarks import coverage
from tests.benchmarks.coverage import ours


def names(count: int) -> list[str]:
    """As many entities, one row each."""
    return [f"entity {number}" for number in range(count)]


def test_all_right_and_all_wrong_get_the_exact_binomial_bound():
    """The rule of three's exact form: 0 of n entities leaves at most 1 - 0.025^(1/n)."""
    entities = names(20) * 5
    bound = 0.025 ** (1 / 20)
    assert interval(np.ones(100, dtype=bool), entities) == (pytest.approx(bound), 1.0)
    assert interval(np.zeros(100, dtype=bool), entities) == (0.0, pytest.approx(1 - bound))


def test_entities_that_agree_on_a_share_between_get_the_exact_bound_too():
    """Half of each entity's rows are right: a bootstrap would give no width at all."""
    differs = 1 - 0.025 ** (1 / 20)
    right = np.repeat([True, False], 20)
    assert interval(right, names(20) * 2) == pytest.approx((0.5 - differs / 2, 0.5 + differs / 2))


@pytest.mark.parametrize("gap", [-1.0, 0.0, 1.0])
def test_differences_that_all_agree_get_the_exact_bound_and_not_the_point(gap: float):
    differs = 1 - 0.025 ** (1 / 20)
    wanted = {-1: (-1, -1 + 2 * differs), 0: (-differs, differs), 1: (1 - 2 * differs, 1)}[int(gap)]
    assert interval(np.full(40, gap), names(20) * 2, GAP) == pytest.approx(wanted)


def test_values_without_bounds_that_all_agree_get_the_point():
    assert interval(np.full(20, 3.0), names(20), None) == (3.0, 3.0)


def test_differences_have_the_interval_of_their_mean():
    gaps = np.random.default_rng(0).normal(0.1, 0.3, 400)
    spread = 1.96 * gaps.std() / 20
    wanted = (gaps.mean() - spread, gaps.mean() + spread)
    assert interval(gaps, names(400), GAP) == pytest.approx(wanted, abs=0.003)


def test_independent_rows_have_the_binomial_interval():
    right = np.arange(400) % 4 > 0
    low, high = interval(right, names(400))
    spread = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - spread, abs=0.005) and high == pytest.approx(0.75 + spread, abs=0.005)


def test_rows_of_an_entity_count_as_one():
    """Forty copies of ten rows tell no more than ten rows."""
    right = np.arange(10) % 2 > 0
    few, many = interval(right, names(10)), interval(np.tile(right, 40), names(10) * 40)
    assert many == pytest.approx(few, abs=0.051)
    assert many[1] - many[0] > 0.4


@pytest.mark.parametrize("count", [FEWEST, 20, 50])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.97, 0.99, 1.0])
def test_the_interval_holds_the_true_share_in_95_of_100_tables(rate: float, count: int):
    """Few entities that differ in their rate; 300 tables have a standard error of .0126."""
    [(held, width)] = coverage.covered(lambda rng: coverage.shares(rng, rate, count, 0.2), rate, SHARE, 300, ours)
    assert held >= 0.92
    assert width < 1.15 * {10: 0.4, 20: 0.26, 50: 0.15}[count]  # what 2 t standard errors are at a rate of .5


@pytest.mark.parametrize(("more", "less"), [(0.3, 0.1), (0.02, 0.02), (0.97, 0.0)])
def test_the_interval_holds_the_true_difference_in_95_of_100_tables(more: float, less: float):
    [(held, _)] = coverage.covered(lambda rng: coverage.gaps(rng, more, less, 20, 0.2), more - less, GAP, 300, ours)
    assert held >= 0.92


@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_the_interval_holds_the_true_mean_without_bounds_in_95_of_100_tables(kind: str):
    [(held, _)] = coverage.covered(lambda rng: coverage.means(rng, kind, 20, 0.2), 0, None, 300, ours)
    assert held >= 0.92


@pytest.mark.parametrize(("bounds", "good", "bad"), [(SHARE, 1.0, 0.0), (GAP, 0.0, -1.0), (GAP, 1.0, -1.0)])
@pytest.mark.parametrize(("count", "rows"), [(10, 1), (10, 300), (50, 20), (400, 2)])
def test_one_error_never_makes_the_interval_narrower(bounds: Bounds, good: float, bad: float, count: int, rows: int):
    values, entities = np.full(count * rows, good), names(count) * rows
    none = interval(values, entities, bounds)
    values[0] = bad
    one = interval(values, entities, bounds)
    assert one[0] < none[0] and one[1] - one[0] > none[1] - none[0]


def test_one_seed_changes_nothing_and_seeds_that_say_the_same_add_nothing():
    right = np.arange(60) % 7 > 0
    alone = interval(right, names(20) * 3)
    assert interval(right, names(20) * 3, seeds=[4] * 60) == alone
    assert interval(np.tile(right, 2), names(20) * 6, seeds=[0] * 60 + [1] * 60) == pytest.approx(alone)


def test_seeds_that_differ_make_the_interval_wider_by_their_own_t():
    """Two seeds, all right and half right: nobody knows what a third would do."""
    right = np.concatenate([np.ones(60), np.arange(60) % 2])
    low, high = interval(right, names(20) * 6, seeds=[0] * 60 + [1] * 60)
    assert low < 0.02 < 0.99 < high
    blind = interval(right, names(20) * 6)
    assert blind[0] > 0.6


@pytest.mark.parametrize("rate", [0.5, 0.97])
def test_with_three_seeds_that_differ_the_interval_holds_the_share_over_all_seeds(rate: float):
    tables = lambda rng: coverage.crossed(rng, rate, 20, 3, 0.3)  # noqa: E731
    (held, _), (blind, _) = coverage.covered(tables, rate, SHARE, 300, ours, coverage.bootstrapped)
    assert held >= 0.92 > 0.8 > blind


def test_an_interval_is_the_same_again_and_needs_enough_entities():
    right = np.arange(30) % 4 > 0
    assert interval(right, names(10) * 3) == interval(right, names(10) * 3)
    with pytest.raises(ValueError, match=r"found 6 entities, wanted at least 10 for an interval"):
        interval(right, names(6) * 5)


def test_estimates_are_means_with_intervals_and_the_number_of_entities():
    right, wrong = np.arange(24) % 3 > 0, np.zeros(24, dtype=bool)
    found = estimates({"a": right, "b": wrong}, names(12) * 2)
    assert [(one.rows, one.entities, one.reason) for one in found.values()] == [(24, 12, None)] * 2
    assert (found["a"].value, found["b"].value) == (pytest.approx(2 / 3), 0)
    assert (found["a"].low, found["a"].high) == interval(right, names(12) * 2)


def test_few_entities_give_the_mean_and_the_reason_in_place_of_an_interval():
    found = estimates({"a": np.array([True, False, False, False])}, names(4))
    reason = "found 4 entities, wanted at least 10 for an interval"
    assert found == {"a": Estimate(0.25, rows=4, entities=4, reason=reason)}
    assert estimates({"a": np.zeros(0, dtype=bool)}, []) == {}


@pytest.mark.parametrize(("found", "tried"), [(0, 1), (0, 1000), (1, 1024), (3, 40), (39, 40), (500, 1000)])
def test_at_the_exact_bound_so_few_come_in_5_percent_of_cases(found: int, tried: int):
    rate = exact_high(found, tried)
    so_few = math.fsum(math.comb(tried, k) * rate**k * (1 - rate) ** (tried - k) for k in range(found + 1))
    assert so_few == pytest.approx(0.05, rel=1e-6)


def test_the_exact_bound_of_none_is_the_rule_of_three_and_of_all_is_one():
    assert exact_high(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000)) == pytest.approx(3 / 1000, rel=0.01)
    assert exact_high(7, 7) == 1 and exact_high(0, 0) == 1


def test_calibration_error_is_zero_where_confidence_is_the_share_right_and_the_gap_where_it_is_not():
    right_half = np.array([True, False] * 50)
    assert calibration_error(np.full(100, 0.5), right_half) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.9), right_half) == pytest.approx(0.4)


def test_calibration_error_does_not_let_bins_cancel_and_takes_shares():
    confidence, share = np.array([0.25, 0.25, 0.95, 1.0]), np.array([0.5, 0.5, 0.7, 0.75])
    assert calibration_error(confidence, share) == pytest.approx(0.25)


def test_the_calibration_error_of_most_draws_lies_in_its_interval():
    """Overconfident by 0.2 throughout."""
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(100):
        confidence = rng.integers(3, BINS, 300) / BINS + 0.05
        right = rng.random(300) < confidence - 0.2
        found = calibration(confidence, right, names(100) * 3, 200, trial)
        assert found.low is not None and found.high is not None
        inside += found.low <= 0.2 <= found.high
    assert inside >= 88
    few = calibration(np.full(5, 0.5), np.ones(5, dtype=bool), names(5), 200, 0)
    assert few.low is None and few.reason == "found 5 entities, wanted at least 10 for an interval"


@pytest.mark.parametrize(
    ("said", "gold", "wanted"),
    [
        (["a", "a", "a", "a"], ["a", "b", "c", "d"], 1 / 4),  # constant reports are right as often as gold is that word
        (["", "", "", ""], ["a", "b", "c", "d"], 0),  # silence is never right by chance
        (["a", "b", "c", "d"], ["a", "b", "c", "d"], 1 / 4),  # though all are right
        (["a", "a", "b", "b"], ["a", "a", "a", "b"], 1 / 2 * 3 / 4 + 1 / 2 * 1 / 4),
        (["x", "y"], ["a", "b"], 0),
        (["a"], ["a"], 1),
    ],
)
def test_chance_is_what_dealing_the_reports_anew_gives(said: list[str], gold: list[str], wanted: float):
    assert chance(said, gold) == pytest.approx(wanted)


def test_chance_is_the_mean_over_permutations():
    rng = np.random.default_rng(0)
    said, gold = rng.choice(list("abc"), 50, p=[0.6, 0.3, 0.1]), rng.choice(list("abcd"), 50)
    dealt = [(rng.permutation(said) == gold).mean() for _ in range(2000)]
    assert chance(said.tolist(), gold.tolist()) == pytest.approx(np.mean(dealt), abs=0.01)
