"""The gate: what counts as evidence for an update, and how it becomes a confidence."""

import torch
from torch.nn import functional as F

from stages.core.model.decoder import Decoder
from stages.core.reader.gate import Gate, evidence
from stages.core.reader.vocabulary import Tokens


def test_evidence_is_one_in_the_plane_of_two_words_and_falls_with_what_lies_outside(small_decoder: Decoder):
    tokens = Tokens(small_decoder)
    to, away = (tokens[small_decoder.continuation(word)[0]] for word in ("Lima", "Oslo"))
    felt = torch.stack([to, away, to - away, away - to])
    torch.testing.assert_close(evidence(tokens, felt), torch.ones(4), rtol=1e-3, atol=1e-3)
    noise = torch.randn(small_decoder.d_model, generator=torch.Generator().manual_seed(0))
    plane = torch.linalg.qr(torch.stack([to, away], 1)).Q
    noise = F.normalize(noise - plane @ (plane.T @ noise), dim=-1)
    unit = F.normalize(to - away, dim=-1)
    found = evidence(tokens, torch.stack([unit + size * noise for size in (0.0, 0.2, 0.5)]))
    torch.testing.assert_close(found[1], torch.tensor(1 / (1 + 0.2**2) ** 0.5), rtol=0.03, atol=0.03)
    assert found[0] > found[1] > found[2]


def test_evidence_counts_directions_only_and_zero_has_none(small_decoder: Decoder):
    tokens, felt = Tokens(small_decoder), torch.randn(20, small_decoder.d_model)
    torch.testing.assert_close(evidence(tokens, 5 * felt), evidence(tokens, felt))
    assert evidence(tokens, torch.zeros(1, small_decoder.d_model)).item() == 0
    assert (evidence(tokens, felt) < 0.95).all()


def test_the_threshold_is_the_share_of_the_median_that_was_asked_for_and_the_median_is_sure():
    gate, weight = Gate(), torch.linspace(0.2, 0.8, 101)
    gate.set(weight, 0.6)
    confidence = gate.confidence(torch.tensor([0.29, 0.30, 0.31, 0.50]))
    assert confidence[0] < 0.5 < confidence[2]
    torch.testing.assert_close(confidence[[1, 3]], torch.tensor([0.5, 0.99]))


def test_a_new_gate_is_open():
    assert (Gate().confidence(torch.linspace(0, 1, 11)) > 0.5).all()
