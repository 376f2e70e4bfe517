"""Bases are orthonormal, span what they say, and are refused where there is nothing to span."""

import numpy as np
import pytest
import torch

from stages.core.concepts import directions
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from tests.core.engine.families import tiny


def orthonormal(basis: torch.Tensor) -> bool:
    return torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-5)


def test_principal_directions_are_orthonormal_the_strongest_first_and_no_more_than_there_are():
    one, two = torch.eye(6)[0], torch.eye(6)[3]
    found = directions.principal(torch.stack([one, 5 * two, one, 4 * two]), 5)
    assert found.shape == (2, 6)
    torch.testing.assert_close(found.abs(), torch.stack([two, one]))


def test_learning_directions_of_one_token_at_the_last_block_are_its_gradient():
    decoder, sample = tiny("qwen3"), Sample((5, 6, 7), (8,))
    ids = torch.tensor([[*sample.prompt, *sample.target]])
    found = directions.learned_along(decoder, ids, torch.tensor([[False, False, False, True]]), 4)
    gradient = next(activation_gradients(decoder, [sample], [3])).gradient[0, 0]
    assert len(found) == decoder.n_layers and found[3].shape == (1, decoder.d_model)
    assert all(map(orthonormal, found))
    np.testing.assert_allclose(abs(found[3][0].numpy() @ gradient) / np.linalg.norm(gradient), 1, rtol=1e-5)


def test_learning_directions_do_not_heed_padding():
    decoder, taught = tiny("qwen3"), torch.tensor([[False, False, True, True]])
    alone = directions.learned_along(decoder, torch.tensor([[5, 6, 7, 8]]), taught, 2)
    ids, more = torch.tensor([[5, 6, 7, 8, 8, 8]]), torch.nn.functional.pad(taught, (0, 2))
    for one, other in zip(alone, directions.learned_along(decoder, ids, more, 2), strict=True):
        torch.testing.assert_close(one.T @ one, other.T @ other, atol=1e-4, rtol=1e-4)


def test_a_contrast_is_the_direction_between_the_means():
    one, other = torch.tensor([[3.0, 0, 1], [5, 0, 1]]), torch.tensor([[0.0, 0, 1]])
    torch.testing.assert_close(directions.contrast(one, other).abs(), torch.tensor([[1.0, 0, 0]]))


def test_the_unembedding_of_tokens_spans_their_rows():
    decoder = tiny("qwen3")
    basis = directions.unembedding(decoder, [3, 9])
    rows = decoder.head.get_parameter("weight")[[3, 9]]
    assert basis.shape[0] == 2 and orthonormal(basis)
    torch.testing.assert_close(rows @ basis.T @ basis, rows)


def test_random_directions_are_those_of_their_seed():
    basis = directions.random(4, 16, 0)
    assert orthonormal(basis)
    assert torch.equal(basis, directions.random(4, 16, 0)) and not torch.equal(basis, directions.random(4, 16, 1))


def test_what_spans_nothing_is_refused():
    decoder, some, none = tiny("qwen3"), torch.ones(2, 3), torch.ones(0, 3)
    with pytest.raises(ValueError, match="contrast: found no prompt on the first side"):
        directions.contrast(none, some)
    with pytest.raises(ValueError, match="contrast: found no prompt on the second side"):
        directions.contrast(some, none)
    with pytest.raises(ValueError, match="found 1 vectors and none but zeros"):
        directions.contrast(some, some)
    with pytest.raises(ValueError, match="directions: found 0, wanted 1 or more"):
        directions.principal(some, 0)
    with pytest.raises(ValueError, match="wanted 1 to 3"):
        directions.random(4, 3, 0)
    for tokens in ([], [61]):
        with pytest.raises(ValueError, match="wanted at least one, all of 0 to 60"):
            directions.unembedding(decoder, tokens)
    with pytest.raises(ValueError, match="found no token that is taught"):
        directions.learned_along(decoder, torch.tensor([[5, 6]]), torch.tensor([[True, False]]), 1)
