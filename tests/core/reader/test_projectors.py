"""The architectures, and what they read: the update direction."""

import pytest
import torch

from stages.core.model.decoder import Decoder
from stages.core.reader import projectors
from stages.core.reader.projectors import ARCHITECTURES, ONE_SLOT, Whitened, directions, whitening
from tests.core.reader.teaching import gradients, new_reader, settings

LAYERS, WIDTH, HIDDEN = 2, 8, 5


def made(name: str, slots: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name](LAYERS, WIDTH, HIDDEN, slots).eval()


def read(seed: int = 0, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return directions(torch.randn(count, LAYERS, WIDTH, generator=generator))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_vector_a_direction_whatever_the_other_rows_and_places(name: str):
    direction = read(count=6)
    found = made(name)(direction)
    assert found.shape == (6, WIDTH) and found.isfinite().all()
    torch.testing.assert_close(made(name)(direction[2:3]), found[2:3])
    torch.testing.assert_close(made(name)(direction.unflatten(0, (2, 3))), found.unflatten(0, (2, 3)))


@pytest.mark.parametrize("name", [name for name, kind in ARCHITECTURES.items() if kind not in ONE_SLOT])
def test_a_learned_map_writes_a_vector_a_slot(name: str):
    found = made(name, slots=3)(read())
    first, second, third = found.unflatten(1, (3, WIDTH)).unbind(1)
    assert found.shape == (4, 3 * WIDTH) and not torch.allclose(first, second) and not torch.allclose(second, third)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_bias_only_ignores_the_gradient(name: str):
    same = torch.equal(made(name)(read(0)), made(name)(read(1)))
    assert same == (name == "bias_only")


@pytest.mark.parametrize("name", ["raw", "scale"])
def test_maps_without_a_bias_turn_the_negative_into_the_negative_and_leave_zero_zero(name: str):
    direction = read()
    torch.testing.assert_close(made(name)(-direction), -made(name)(direction))
    assert not made(name)(torch.zeros_like(direction)).any()


def test_raw_is_the_last_layer_s_direction_and_has_no_parameters():
    projector, direction = made("raw"), read()
    assert torch.equal(projector(direction), direction.unflatten(1, (LAYERS, WIDTH))[:, -1])
    assert not list(projector.parameters()) and not projector.state_dict()


def test_a_low_rank_map_has_that_rank():
    found = made("low_rank")(read(count=64))
    assert torch.linalg.matrix_rank(found - found[:1], rtol=1e-4) == HIDDEN


def test_scalar_affine_starts_with_no_bias():
    projector, scale = made("scalar_affine"), made("scale")
    with torch.no_grad():
        next(scale.parameters()).copy_(next(projector.parameters()))
    torch.testing.assert_close(projector(read()), scale(read()))


def test_scale_is_one_number_a_layer_and_nothing_else():
    projector = made("scale")
    assert [tuple(value.shape) for value in projector.parameters()] == [(LAYERS,)]
    with torch.no_grad():
        next(projector.parameters()).copy_(torch.tensor([2.0, -1.0]))
    first, second = read().unflatten(1, (LAYERS, WIDTH)).unbind(1)
    torch.testing.assert_close(projector(read()), 2 * first - second)


@pytest.mark.parametrize("name", ["scale", "scalar_affine"])
def test_scale_and_affine_can_learn_the_negative(name: str):
    """From either sign that a scale may begin with, to the other."""
    for wanted in (1.0, -1.0):
        torch.manual_seed(0)
        projector, direction = ARCHITECTURES[name](LAYERS, WIDTH, HIDDEN, 1), read(count=64)
        optimizer = torch.optim.AdamW(projector.parameters(), lr=0.05)
        target = wanted * made("raw")(direction)
        for _ in range(80):
            found = projector(direction)
            loss = -torch.nn.functional.cosine_similarity(found, target, dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scales = next(projector.parameters())
        cosine = torch.nn.functional.cosine_similarity(projector(direction), target, dim=-1)
        assert scales[-1].sign() == wanted and cosine.mean() > 0.9


def correlated(count: int = 500) -> torch.Tensor:
    """Gradients that vary along some axes ten times as much as along others, around a mean that isn't zero."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.3, 3.0, LAYERS * WIDTH)[:, None] * torch.randn(
        LAYERS * WIDTH, LAYERS * WIDTH, generator=generator
    )
    values = torch.randn(count, LAYERS * WIDTH, generator=generator) @ spread + 1
    return values.unflatten(1, (LAYERS, WIDTH))


def test_whitened_training_directions_have_unit_covariance_with_their_negatives(monkeypatch: pytest.MonkeyPatch):
    direction = directions(correlated())
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
    direction = directions(correlated())
    whitened = Whitened(made(name), LAYERS * WIDTH)
    whitened.matrix.copy_(whitening([direction]))
    wanted = made(name)(direction @ whitening([direction]))
    torch.testing.assert_close(whitened(direction), wanted)
    other = Whitened(made(name), LAYERS * WIDTH)
    other.load_state_dict(whitened.state_dict())
    assert torch.equal(other(direction), whitened(direction))
    assert "matrix" not in dict(whitened.named_parameters())


def test_whitening_of_several_places_ignores_those_that_are_missing(small_decoder: Decoder):
    reader = new_reader(small_decoder, settings(architecture="raw", whiten=True))
    read = gradients(reader, 600)
    reader.fit_whitening([read[:250], read[250:]])
    assert isinstance(reader.projector, Whitened)
    there = directions(reader.by_place(read)).flatten(0, 1)
    there = there[there.any(-1)]
    assert len(there) == 900
    torch.testing.assert_close(reader.projector.matrix, whitening([there]))
    assert not reader.read(read).felt[::2, 1:].any()


def test_directions_are_the_update_direction_of_each_layer_and_zero_stays_zero():
    gradient = torch.randn(3, LAYERS, WIDTH)
    gradient[2, 0] = 0
    parts = directions(gradient).unflatten(1, (LAYERS, WIDTH))
    assert not parts[2, 0].any() and parts.isfinite().all()
    torch.testing.assert_close(parts[:2].norm(dim=-1), torch.full((2, LAYERS), WIDTH**0.5))
    cosine = torch.nn.functional.cosine_similarity(parts[:2], gradient[:2], dim=-1)
    torch.testing.assert_close(cosine, -torch.ones(2, LAYERS))
    torch.testing.assert_close(directions(1e-6 * gradient)[:2], directions(gradient)[:2])
