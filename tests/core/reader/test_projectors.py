"""The architectures, and what they read: the update direction at its strength."""

import pytest
import torch

from stages.core.reader import projectors
from stages.core.reader.projectors import ARCHITECTURES, STRENGTH_BOUND, Whitened, features, whitening

LAYERS, WIDTH, SLOTS, HIDDEN = 2, 8, 3, 5


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name](LAYERS, WIDTH, SLOTS, HIDDEN).eval()


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


def test_scale_is_one_number_a_slot_and_layer_and_nothing_else():
    projector = made("scale")
    assert [tuple(value.shape) for value in projector.parameters()] == [(SLOTS, LAYERS)]
    with torch.no_grad():
        next(projector.parameters()).copy_(torch.tensor([[2.0, 0.0], [0.0, -1.0], [1.0, 1.0]]))
    direction, strength = read()
    first, second = direction.unflatten(1, (LAYERS, WIDTH)).unbind(1)
    torch.testing.assert_close(projector(direction, strength), torch.stack([2 * first, -second, first + second], 1))
    torch.testing.assert_close(projector(direction, 2 * strength), projector(direction, strength))


def correlated(count: int = 500) -> torch.Tensor:
    """Gradients that vary along some axes ten times as much as along others, around a mean that isn't zero."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.3, 3.0, LAYERS * WIDTH)[:, None] * torch.randn(
        LAYERS * WIDTH, LAYERS * WIDTH, generator=generator
    )
    values = torch.randn(count, LAYERS * WIDTH, generator=generator) @ spread + 1
    return values.unflatten(1, (LAYERS, WIDTH))


def test_whitened_training_directions_have_unit_covariance_with_their_negatives(monkeypatch: pytest.MonkeyPatch):
    direction, _ = features(correlated(), torch.ones(LAYERS))
    monkeypatch.setattr(projectors, "RIDGE", 0.0)
    white = direction @ whitening([direction])
    both = torch.cat([white, -white])
    torch.testing.assert_close(torch.cov(both.T, correction=0), torch.eye(LAYERS * WIDTH), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(torch.cov(direction.T), torch.eye(LAYERS * WIDTH), atol=0.1)


def test_whitening_is_regularised_by_a_share_of_the_mean_variance():
    """Of directions along two axes only, out of sixteen: the others keep a finite scale."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.zeros(400, 16)
    direction[:, :2] = torch.randn(400, 2, generator=generator) * torch.tensor([3.0, 1.0])
    matrix = whitening([direction])
    variances = torch.linalg.eigvalsh(direction.T @ direction / 400)
    wanted = (variances + projectors.RIDGE * variances.mean()).rsqrt().sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix), wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(matrix, matrix.T)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_whitened_projector_reads_whitened_directions_and_keeps_its_matrix_with_its_weights(name: str):
    gradients = correlated()
    direction, strength = features(gradients, torch.ones(LAYERS))
    whitened = Whitened(made(name), LAYERS * WIDTH)
    whitened.fit([direction])
    wanted = made(name)(direction @ whitening([direction]), strength)
    torch.testing.assert_close(whitened(direction, strength), wanted)
    other = Whitened(made(name), LAYERS * WIDTH)
    other.load_state_dict(whitened.state_dict())
    assert torch.equal(other(direction, strength), whitened(direction, strength))
    assert "matrix" not in dict(whitened.named_parameters())


def test_a_sign_flip_still_swaps_the_entity_slots_of_mirror_mlp_when_whitened():
    gradients, reference = correlated(), torch.ones(LAYERS)
    whitened = Whitened(made("mirror_mlp"), LAYERS * WIDTH)
    whitened.fit([features(gradients, reference)[0]])
    straight, flipped = (whitened(*features(sign * gradients, reference)) for sign in (1, -1))
    torch.testing.assert_close(straight[:, 1], flipped[:, 2])


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
