"""The engine gives what nnsight and TransformerLens give on the same model."""

import numpy as np
import pytest
import torch

from stages.core.model.decoder import Decoder
from tests.benchmarks.joint import gradients_and_steps
from tests.core.engine import reference
from tests.core.engine.families import VOCABULARY, tiny_model
from tests.core.engine.peers import PEERS

SIZES = [0.05, 0.5]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("name", PEERS)
def test_gradients_and_shifts_equal_the_peers(name: str, family: str) -> None:
    if name != "naive":
        pytest.importorskip(name)
    samples, layer = reference.draw(6, VOCABULARY), 2
    peer = PEERS[name](tiny_model(family))
    decoder = Decoder(tiny_model(family))
    for measured, shifts in gradients_and_steps(decoder, samples, [layer], SIZES, top_tokens=5):
        for place, row in enumerate(measured.rows):
            wanted = peer.gradient(samples[row], layer)
            np.testing.assert_allclose(
                measured.gradient[place, 0], wanted, rtol=0, atol=1e-5 * wanted.abs().max().item()
            )
            before = peer.step(samples[row], layer, -wanted, 0.0)
            for step, size in enumerate(SIZES):
                shift = peer.step(samples[row], layer, -wanted, size) - before
                up, down = shifts.up_ids[place, 0, step], shifts.down_ids[place, 0, step]
                np.testing.assert_allclose(shifts.up_shifts[place, 0, step], shift[up], atol=2e-5)
                np.testing.assert_allclose(shifts.down_shifts[place, 0, step], shift[down], atol=2e-5)
                torch.testing.assert_close(shift[up], shift.topk(5).values, rtol=0, atol=2e-5)
