"""What bfloat16 costs, and that the figures of the benchmark are there."""

import torch

from tests.core.engine import reference
from tests.core.engine.accuracy import accuracy, gradients, overlap, top_sets
from tests.core.engine.families import VOCABULARY, tiny, tiny_model

WIDE = {"hidden_size": 128, "intermediate_size": 192, "vocab_size": 400, "initializer_range": 0.05}


def test_small_steps_lose_their_top_tokens_in_bfloat16() -> None:
    sizes = [0.01, 0.1, 1.0]
    decoder, samples = tiny("qwen3", **WIDE), reference.draw(32, WIDE["vocab_size"])
    found = gradients(decoder, samples, [1])
    plain = top_sets(decoder, samples, found, [1], sizes)
    narrow = top_sets(tiny("qwen3", torch.bfloat16, **WIDE), samples, found, [1], sizes)
    assert overlap(plain, narrow)[0] < 0.9


def test_the_report_of_accuracy_has_a_figure_for_every_layer() -> None:
    found = accuracy(tiny_model("qwen3"), reference.draw(4, VOCABULARY), [0.1])
    assert len(found["bfloat16 cosine by layer (median)"]) == 4
    assert min(found["bfloat16 cosine by layer (median)"]) > 0.99
    assert found["float32 against float64: largest relative error"] < 1e-5
    assert found["float32 against float64: identical top-20 sets"] == "4 of 4"
