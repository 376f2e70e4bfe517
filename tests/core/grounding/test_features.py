"""A text's vectors: none where it says nothing; and how much of an update lies in the span of its words."""

import numpy as np
import torch

from stages.core.data.grammar import Report
from stages.core.grounding.features import explained, words
from stages.core.model.decoder import Decoder
from stages.core.reader.vocabulary import Tokens

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
