"""Intervals and chance, on cases whose answer is known."""

import numpy as np
import pytest

from stages.core.statistics import chance, interval


def test_all_right_and_all_wrong_get_the_exact_binomial_bound():
    """The rule of three's exact form: 0 of n entities leaves at most 1 - 0.025^(1/n)."""
    names = [f"entity {number // 5}" for number in range(100)]  # 20 entities of 5 rows
    bound = 0.025 ** (1 / 20)
    assert interval(np.ones(100, dtype=bool), names, 100, 0) == (pytest.approx(bound), 1.0)
    assert interval(np.zeros(100, dtype=bool), names, 100, 0) == (0.0, pytest.approx(1 - bound))


def test_independent_rows_have_the_binomial_interval():
    right = np.arange(400) % 4 > 0
    low, high = interval(right, [str(number) for number in range(400)], 4000, 0)
    spread = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - spread, abs=0.005) and high == pytest.approx(0.75 + spread, abs=0.005)


def test_rows_of_an_entity_count_as_one():
    """Forty copies of ten rows tell no more than ten rows."""
    right, names = np.arange(10) % 2 > 0, [str(number) for number in range(10)]
    few, many = interval(right, names, 4000, 0), interval(np.tile(right, 40), names * 40, 4000, 0)
    assert many == pytest.approx(few, abs=0.051)
    assert many[1] - many[0] > 0.4


def test_the_interval_covers_the_true_rate_about_95_times_in_100():
    """Entities differ in their rate (mean 0.7), six rows each."""
    rng = np.random.default_rng(0)
    names = [str(number) for number in range(60) for _ in range(6)]
    inside = 0
    for trial in range(300):
        rates = rng.beta(7, 3, 60)
        low, high = interval(rng.random(360) < np.repeat(rates, 6), names, 400, trial)
        inside += low <= 0.7 <= high
    assert 0.91 <= inside / 300 <= 0.98


def test_an_interval_is_the_same_again_and_needs_two_entities():
    right, names = np.arange(30) % 3 > 0, [str(number % 7) for number in range(30)]
    assert interval(right, names, 200, 5) == interval(right, names, 200, 5)
    with pytest.raises(ValueError, match=r"found 1 entities, wanted at least 2 for an interval; raise prompts.test"):
        interval(right, ["Paris"] * 30, 200, 5)


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
