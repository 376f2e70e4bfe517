"""A sum of corrections is taken apart into their words, and each word is named for the one that it replaces."""

import numpy as np
import torch
from torch.nn import functional as F

from stages.core.data.gathering import Gathered
from stages.core.evaluate.batches import batch_scores, marks, set_of, taken_apart, without
from stages.core.model.decoder import Decoder
from tests.core.evaluate.small import HOW, cases_of, raw_reader, slots_of

PAIRS = [("Lima", "Oslo"), ("Puccini", "Verdi"), ("Peru", "Japan"), ("Tokyo", "Quito")]


def summed(decoder: Decoder, *pairs: tuple[str, str]) -> torch.Tensor:
    return slots_of(raw_reader(decoder), *pairs).felt[:, 0].sum(0, keepdim=True)


def test_a_sum_is_taken_apart_into_its_words_whatever_its_length(trained_decoder: Decoder):
    reader = raw_reader(trained_decoder)
    first = lambda name: trained_decoder.continuation(name)[0]  # noqa: E731
    for size in (1, 2):
        for scale in (1.0, 1e-3):
            (up,), (down,) = taken_apart(reader.tokens, scale * summed(trained_decoder, *PAIRS[:size]), size)
            assert set(up.tolist()) == {first(to) for to, _ in PAIRS[:size]}
            assert set(down.tolist()) == {first(away) for _, away in PAIRS[:size]}


def test_nothing_is_left_along_words_that_are_taken_out(trained_decoder: Decoder):
    tokens = raw_reader(trained_decoder).tokens
    felt = F.normalize(torch.randn(3, trained_decoder.d_model, generator=torch.Generator().manual_seed(0)), dim=-1)
    ids = torch.tensor([[5, 6], [7, 8], [9, 9]])  # a word twice is taken out once
    left = without(tokens, felt, ids)
    assert (left[:, None] @ tokens[ids].mT).abs().max() < 1e-5
    assert torch.equal(without(tokens, felt, ids[:, :0]), felt)


def test_a_vector_of_nothing_is_taken_apart_without_an_error(trained_decoder: Decoder):
    reader = raw_reader(trained_decoder)
    up, down = taken_apart(reader.tokens, torch.zeros(2, trained_decoder.d_model), 2)
    assert up.shape == down.shape == (2, 2)


def test_a_report_is_made_of_each_pair(trained_decoder: Decoder):
    reader, slots = raw_reader(trained_decoder), slots_of(raw_reader(trained_decoder), *PAIRS[:2])
    apart = taken_apart(reader.tokens, slots.felt[:, 0], 2)
    assert [len(each) for each in set_of(reader, slots, apart, [None, None], 4)] == [2, 2]


def test_a_pair_counts_only_where_both_are_named_for_each_other():
    right = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    found = marks([[("a", "d"), ("c", "x")], [("e", "f"), ("a", "")]], right)
    assert {mark: own.tolist() for mark, (own, _) in found.items()} == {
        "toward": [True, True, True, False],
        "away": [False, True, True, False],
        "pairs": [False, False, True, False],
    }
    assert found["toward"][1] == 0.25  # the second batch's set names a


def test_a_batch_has_prompts_of_its_own_and_too_few_make_none(trained_decoder: Decoder):
    reader, read = raw_reader(trained_decoder), trained_decoder.continuation
    cases = cases_of(*PAIRS)
    cases = cases.with_columns(prompt="prompt_id")
    gradient = np.stack([-(reader.tokens[read(to)[0]] - 0.6 * reader.tokens[read(away)[0]]).numpy()[None]
                         for to, away in PAIRS])  # fmt: skip
    gradient = gradient.repeat(len(reader.card.places) * len(reader.card.layers), 1)
    data = Gathered(cases, gradient, gradient, list(reader.card.layers), reader.card.places)
    found = batch_scores(reader, data, cases, HOW)
    assert set(found) == {"two"} and found["two"]["batches"] == 2
    assert set(found["two"]) == {"batches", "model", "words", "lens", "nearest"}
    assert found["two"]["words"]["toward_first"].value >= 0.75
    assert batch_scores(reader, data, cases_of(*PAIRS), HOW) == {}
