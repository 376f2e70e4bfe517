"""What is made again from words: updates that are made of words, and nothing where there are none."""

import numpy as np
import pytest

from stages.core.grounding.head import reconstructed, shares

WIDTH, ROWS = 16, 300


def made(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of two words each, of which every other one has no second, and updates made of their vectors."""
    vectors = rng.standard_normal((rows, 2, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[::2, 1] = np.nan
    updates = 0.9 * vectors[:, 0] - 0.5 * np.nan_to_num(vectors[:, 1]) + 0.05 * rng.standard_normal((rows, WIDTH))
    return vectors, updates


def test_updates_made_of_words_are_made_again_also_of_words_never_seen():
    rng = np.random.default_rng(0)
    train, few, test = made(rng, ROWS), made(rng, 20), made(rng, 50)
    empty, swapped = np.full((50, 2, WIDTH), np.nan), test[0][::-1]
    vectors = {"train": train[0], "validation": few[0], "report": test[0], "empty": empty, "swapped": swapped}
    updates = {"train": train[1], "validation": few[1]}
    found = reconstructed(vectors, updates)
    assert shares(found["report"], test[1]).mean() > 0.95
    assert np.allclose(found["empty"], train[1].mean(0))
    assert shares(found["swapped"], test[1]).mean() < 0
    assert reconstructed(vectors | {"swapped": swapped[:0]}, updates)["swapped"].shape == (0, WIDTH)
    # five rows, fewer than a vector has numbers: what a word adds is its own embedding still
    fewer = reconstructed(vectors | {"train": train[0][:5]}, updates | {"train": train[1][:5]})
    assert shares(fewer["report"], test[1]).mean() > 0.6


def test_rows_without_an_update_teach_nothing():
    rng = np.random.default_rng(1)
    (vectors, update), few, (asked, _) = made(rng, ROWS), made(rng, 20), made(rng, 5)
    given = {"train": vectors, "validation": few[0], "report": asked}
    alone = reconstructed(given, {"train": update, "validation": few[1]})
    more = {"train": np.concatenate([vectors, asked]), "validation": few[0], "report": asked}
    zeros = np.concatenate([update, np.zeros((5, WIDTH))])
    assert np.allclose(reconstructed(more, {"train": zeros, "validation": few[1]})["report"], alone["report"])


def test_a_place_that_no_training_text_has_counts_for_nothing(recwarn: pytest.WarningsRecorder):
    rng = np.random.default_rng(2)
    (vectors, update), few, (asked, _) = made(rng, ROWS), made(rng, 20), made(rng, 5)
    given = {"train": vectors, "validation": few[0], "report": asked}
    third = {name: np.concatenate([each, np.full((len(each), 1, WIDTH), np.nan)], 1) for name, each in given.items()}
    updates = {"train": update, "validation": few[1]}
    found, wanted = (reconstructed(each, updates)["report"] for each in (third, given))
    assert np.allclose(found, wanted) and not recwarn.list
