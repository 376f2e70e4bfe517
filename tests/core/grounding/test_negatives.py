"""Negatives are told from real gradients by the share of pairs in which the real one scores higher."""

import numpy as np
import pytest

from stages.core.grounding.negatives import share_above


def test_the_mean_share_above_is_the_area_under_the_curve_by_all_pairs():
    rng = np.random.default_rng(0)
    real, negatives = rng.integers(0, 20, 40) / 20, rng.integers(0, 15, 30) / 20
    pairs = (real[:, None] > negatives).mean() + (real[:, None] == negatives).mean() / 2
    assert share_above(real, negatives).mean() == pytest.approx(pairs)


def test_all_above_is_one_all_below_none_and_all_equal_a_half():
    low, high = np.zeros(3), np.ones(4)
    assert share_above(high, low).tolist() == [1.0] * 3
    assert share_above(low, high).tolist() == [0.0] * 4
    assert share_above(low, low).tolist() == [0.5] * 3
