"""Draws depend on seed and identity alone."""

import numpy as np

from stages.core.run.seeds import digest, keyed_fraction, keyed_int, keyed_rng


def test_parts_of_an_identity_are_kept_apart():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")


def test_draws_are_the_same_on_every_machine():
    """Written down once: a change of these numbers moves every split."""
    assert keyed_int(0, "split", "a prompt") == 4715310637153332489
    assert keyed_rng(0, "row").integers(10**6) == 839202


def test_another_seed_or_identity_is_another_draw():
    draws = {keyed_int(seed, *identity) for seed in (0, 1) for identity in (("a",), ("b",), ("a", "b"), ("a", 1))}
    assert len(draws) == 8 and all(0 <= draw < 2**63 for draw in draws)


def test_fractions_are_uniform():
    draws = np.array([keyed_fraction(0, "row", number) for number in range(4000)])
    assert draws.min() >= 0 and draws.max() < 1
    assert np.abs(np.quantile(draws, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.03
