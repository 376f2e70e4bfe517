"""The map in closed form: exact where there is one, deaf to how rows are cut, and odd."""

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.model.decoder import Decoder
from stages.core.reader.fitting import fit_map
from stages.core.reader.projectors import directions
from tests.core.reader.teaching import new_reader, settings


def pairs(width: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gradients of two layers at one place, and those that a fixed matrix makes of their directions."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.randn(rows, 2, width, generator=generator)
    matrix = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(0))
    return there, -directions(there) @ matrix * torch.rand(rows, 1, generator=generator)


def test_a_map_that_there_is_is_found_and_turns_gradients_that_it_never_saw(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings(architecture="linear", layers=[0, 1], places=["subject"]))
    there, read = pairs(small_decoder.d_model, 4000, 1)
    fit_map(reader, [(there, read)])
    fresh, wanted = pairs(small_decoder.d_model, 50, 2)
    with torch.no_grad():
        slots, flipped = reader.read(fresh), reader.read(-fresh)
    assert (F.cosine_similarity(slots.felt[:, 0], -wanted, dim=-1) > 0.99).all()
    assert torch.equal(flipped.felt, slots.opposite) and torch.allclose(slots.felt, -slots.opposite, atol=1e-6)

    whole = reader.projector.state_dict()["map.weight"].clone()
    nothing = torch.zeros_like(there[:10]), torch.zeros_like(read[:10])
    fit_map(reader, [*zip(there.split(700), read.split(700), strict=True), nothing])
    assert torch.allclose(reader.projector.state_dict()["map.weight"], whole, atol=1e-6)
