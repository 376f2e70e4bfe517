"""The gate: what counts as evidence for an update, and how it becomes a confidence."""

import pytest
import torch
from torch.nn import functional as F

from stages.core.data.grammar import NO_PRESSURE, report
from stages.core.model.decoder import Decoder
from stages.core.reader.gate import Gate, in_plane
from stages.core.reader.injection import Slots
from stages.core.reader.reports import accounted_for
from stages.core.reader.vocabulary import Tokens
from tests.core.reader.teaching import new_reader, settings


def plane_of(tokens: Tokens, felt: torch.Tensor) -> torch.Tensor:
    ids = [tokens.decoder.continuation(word)[:1] * len(felt) for word in ("Lima", "Oslo")]
    return in_plane(tokens, felt, *map(torch.tensor, ids))


def test_all_of_a_vector_in_the_plane_of_two_words_is_in_it_and_what_lies_outside_is_not(small_decoder: Decoder):
    tokens = Tokens(small_decoder)
    to, away = (tokens[small_decoder.continuation(word)[0]] for word in ("Lima", "Oslo"))
    felt = torch.stack([to, away, to - away, away - to, 3 * to + away])
    torch.testing.assert_close(plane_of(tokens, felt), torch.ones(5), rtol=1e-3, atol=1e-3)
    noise = torch.randn(small_decoder.d_model, generator=torch.Generator().manual_seed(0))
    plane = torch.linalg.qr(torch.stack([to, away], 1)).Q
    noise = F.normalize(noise - plane @ (plane.T @ noise), dim=-1)
    unit = F.normalize(to - away, dim=-1)
    sizes = torch.tensor([0.0, 0.2, 0.5, 2.0])
    found = plane_of(tokens, torch.stack([size * noise + unit for size in sizes]))
    torch.testing.assert_close(found, 1 / (1 + sizes**2), rtol=1e-3, atol=1e-3)
    assert plane_of(tokens, torch.zeros(1, small_decoder.d_model)).item() == 0


def test_a_report_is_held_against_the_slot_where_its_names_part(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings())
    tokens = reader.tokens
    lima, oslo, san, jose = (tokens[small_decoder.continuation(word)[0]] for word in ("Lima", "Oslo", "San", "José"))
    salvador = tokens[small_decoder.continuation("San Salvador")[1]]
    felt = torch.stack([torch.stack([lima - oslo, san]), torch.stack([san, salvador - jose])])

    def held(*names: tuple[str, str], slots: int = 2) -> list[float]:
        said = [report("geography", *pair) if all(pair) else NO_PRESSURE for pair in names]
        return accounted_for(reader, Slots(felt, felt, torch.full((2,), slots)), said).tolist()

    assert held(("Lima", "Oslo"), ("San Salvador", "San José")) == pytest.approx([1, 1], abs=1e-3)
    assert max(held(("San", "José"), ("Lima", "Oslo"))) < 0.7
    assert held(("Lima", ""), ("", "")) == [0, 0]
    few = held(("Lima", "Oslo"), ("San Salvador", "San José"), slots=1)
    assert few[0] == pytest.approx(1, abs=1e-3) and few[1] == pytest.approx(0, abs=1e-3)


def test_the_threshold_is_the_share_of_the_median_that_was_asked_for_and_the_median_is_sure():
    gate, weight = Gate(), torch.linspace(0.2, 0.8, 101)
    gate.set(weight, 0.6)
    confidence = gate.confidence(torch.tensor([0.29, 0.30, 0.31, 0.50]))
    assert confidence[0] < 0.5 < confidence[2]
    torch.testing.assert_close(confidence[[1, 3]], torch.tensor([0.5, 0.99]))


def test_a_new_gate_is_open():
    assert (Gate().confidence(torch.linspace(0, 1, 11)) > 0.5).all()
