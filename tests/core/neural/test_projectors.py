"""The architectures, and what they read: the update direction at its strength."""

import pytest
import torch

from stages.core.neural.projectors import ARCHITECTURES, STRENGTH_BOUND, features

LAYERS, WIDTH, SLOTS, HIDDEN = 2, 8, 3, 5


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name](LAYERS, WIDTH, SLOTS, HIDDEN)


def read(seed: int = 0, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return features(torch.randn(count, LAYERS, WIDTH, generator=generator), torch.ones(LAYERS))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_vector_a_slot_and_each_row_by_itself(name: str):
    direction, strength = read()
    found = made(name)(direction, strength)
    assert found.shape == (4, SLOTS, WIDTH) and found.isfinite().all()
    torch.testing.assert_close(made(name)(direction[2:3], strength[2:3]), found[2:3])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_bias_only_ignores_the_gradient(name: str):
    same = torch.equal(made(name)(*read(0)), made(name)(*read(1)))
    assert same == (name == "bias_only")


def test_a_sign_flip_swaps_the_entity_slots_of_mirror_mlp():
    gradient = torch.randn(4, LAYERS, WIDTH)
    projector, reference = made("mirror_mlp"), torch.ones(LAYERS)
    straight, flipped = (projector(*features(sign * gradient, reference)) for sign in (1, -1))
    assert torch.equal(straight[:, 1], flipped[:, 2]) and torch.equal(straight[:, 2], flipped[:, 1])
    assert not torch.allclose(straight[:, 1], straight[:, 2])


def test_a_low_rank_map_has_that_rank():
    direction, strength = read(count=64)
    found = made("low_rank")(direction, strength).flatten(1)
    assert torch.linalg.matrix_rank(found - found[:1], rtol=1e-4) == HIDDEN


def test_scalar_affine_starts_as_the_sum_of_the_layers_directions():
    direction, strength = read()
    wanted = direction.unflatten(1, (LAYERS, WIDTH)).sum(1)
    torch.testing.assert_close(made("scalar_affine")(direction, strength)[:, 0], wanted)


def test_features_are_the_update_direction_and_the_log_of_the_relative_norm():
    gradient = torch.randn(3, LAYERS, WIDTH)
    reference = torch.tensor([0.5, 2.0])
    direction, strength = features(gradient, reference)
    parts = direction.unflatten(1, (LAYERS, WIDTH))
    torch.testing.assert_close(parts.norm(dim=-1), torch.full((3, LAYERS), WIDTH**0.5))
    cosine = torch.nn.functional.cosine_similarity(parts, gradient, dim=-1)
    torch.testing.assert_close(cosine, -torch.ones(3, LAYERS))
    wanted = (gradient.norm(dim=-1) / reference).log().mean(1, keepdim=True)
    torch.testing.assert_close(strength, wanted)


@pytest.mark.parametrize(
    ("scale", "wanted"), [(0.0, -STRENGTH_BOUND), (1e-30, -STRENGTH_BOUND), (1e30, STRENGTH_BOUND)]
)
def test_strength_is_bounded_and_zero_is_weakest(scale: float, wanted: float):
    direction, strength = features(scale * torch.ones(1, LAYERS, WIDTH), torch.ones(LAYERS))
    assert strength.item() == wanted and direction.isfinite().all()
    assert scale or not direction.any()
