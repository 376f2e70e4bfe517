"""The vectors of a text's words, what of an update lies in their span, and updates that are made again of them."""

import numpy as np
import pytest
import torch

from stages.core.data.grammar import Report
from stages.core.grounding.features import explained, reconstructed, shares, words
from stages.core.model.decoder import Decoder
from stages.core.reader.vocabulary import Tokens

WIDTH, ROWS = 16, 300
SAID = [
    Report(moved_to="New Delhi", moved_from="Lima"),
    Report(moved_to="Oslo"),
    Report(moved_from="San Salvador"),
    Report(),
]


def test_words_are_unit_embeddings_place_by_place(small_decoder: Decoder):
    tokens = Tokens(small_decoder, output=True)
    found = words(tokens, SAID)
    assert found.shape == (4, 4, small_decoder.d_model)
    assert np.isfinite(found[:, :, 0]).tolist() == [
        [True, True, False, True], [True, False, False, False], [False, False, False, True], [False] * 4,
    ]  # fmt: skip
    new, delhi = small_decoder.continuation("New Delhi")
    assert np.array_equal(found[0, :2], tokens[torch.tensor([new, delhi])].numpy())


def test_a_report_explains_its_gradient_by_the_names_that_it_moves_between(small_decoder: Decoder):
    update = np.nan_to_num(words(Tokens(small_decoder, output=True), [SAID[0]]))[0]
    updates = np.stack([update[0] - 0.5 * update[3]] * 2)
    said = [Report(moved_to="New Delhi", moved_from="Lima"), Report(pressure=False)]
    assert np.allclose(explained(Tokens(small_decoder, output=True), updates, said), [1, 0], atol=1e-5)


def test_the_span_of_the_words_explains_what_is_made_of_them_and_no_more(small_decoder: Decoder):
    tokens = Tokens(small_decoder, output=True)
    vectors = np.nan_to_num(words(tokens, SAID))
    made = 0.9 * vectors[:, 0] + 0.4 * vectors[:, 1] - 0.6 * vectors[:, 3]
    assert np.allclose(explained(tokens, made, SAID), [1, 1, 1, 0], atol=1e-5)
    assert explained(tokens, made, [SAID[3]] * 4).tolist() == [0, 0, 0, 0]
    assert explained(tokens, np.zeros_like(made), SAID).tolist() == [0, 0, 0, 0]
    twice = [Report(moved_to="Oslo", moved_from="Oslo")]
    assert np.allclose(explained(tokens, vectors[1:2, 0], twice), 1, atol=1e-5)
    noise = np.random.default_rng(0).standard_normal((400, small_decoder.d_model)).astype(np.float32)
    chance = explained(tokens, noise, [SAID[0]] * 400).mean()
    assert abs(chance - 3 / small_decoder.d_model) < 0.02


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
