import numpy as np
import pytest
import torch

from stages.core.engine.gradients import activation_gradients
from stages.core.engine.hybrid import prefix_body
from tests.core.engine import reference
from tests.core.engine.accuracy import accuracy, cosines, gradients, overlap, top_sets
from tests.core.engine.families import VOCABULARY, tiny, tiny_model

WIDE = {"hidden_size": 128, "intermediate_size": 192, "vocab_size": 400, "initializer_range": 0.05}


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt2", "gpt_neox"])
def test_hybrid_gradients_point_where_float32_gradients_point(family: str) -> None:
    decoder, samples = tiny(family), reference.draw(24, VOCABULARY)
    exact = gradients(decoder, samples, [0, 2])
    found = gradients(decoder, samples, [0, 2], hybrid=True)
    assert (found != exact).any()
    assert np.median(cosines(found, exact)) > 0.999


def test_hybrid_steps_keep_their_top_tokens_at_every_size_where_bfloat16_loses_them() -> None:
    sizes = [0.01, 0.1, 1.0]
    decoder, samples = tiny("qwen3", **WIDE), reference.draw(32, WIDE["vocab_size"])
    found = gradients(decoder, samples, [1])
    plain = top_sets(decoder, samples, found, [1], sizes)
    assert min(overlap(plain, top_sets(decoder, samples, found, [1], sizes, hybrid=True))) > 0.95
    narrow = top_sets(tiny("qwen3", torch.bfloat16, **WIDE), samples, found, [1], sizes)
    assert overlap(plain, narrow)[0] < 0.9


def test_the_twin_is_made_once_and_anew_when_the_weights_change() -> None:
    decoder = tiny("qwen3")
    first = prefix_body(decoder, hybrid=True)
    assert prefix_body(decoder, hybrid=True) is first
    assert {parameter.dtype for parameter in first.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in first.buffers()} == {torch.float32}
    with torch.no_grad():
        next(decoder.model.parameters()).add_(1)
    assert prefix_body(decoder, hybrid=True) is not first
    assert prefix_body(decoder, hybrid=False) is decoder.body


def test_hybrid_is_refused_where_there_is_nothing_to_narrow() -> None:
    decoder, samples = tiny("qwen3", torch.bfloat16), reference.draw(2, VOCABULARY)
    with pytest.raises(ValueError, match=r"found torch\.bfloat16 parameters, wanted float32 for hybrid"):
        list(activation_gradients(decoder, samples, [1], hybrid=True))


def test_the_report_of_accuracy_has_a_figure_for_every_layer() -> None:
    found = accuracy(tiny_model("qwen3"), reference.draw(4, VOCABULARY), [0.1])
    assert len(found["bfloat16 cosine by layer (median)"]) == 4
    assert min(found["bfloat16 cosine by layer (median)"]) > 0.99
    assert found["float32 against float64: largest relative error"] < 1e-5
    assert found["float32 against float64: identical top-20 sets"] == "4 of 4"
