"""The gate: what counts as evidence for a gradient, and how it becomes a confidence."""

import pytest
import torch
from jaxtyping import Float
from stages.core.reader.gate import Gate
from torch import Tensor

D_MODEL, LAYERS, SILENCE = 16, 2, 3


def unit(*shape: int, seed: int) -> Float[Tensor, "..."]:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


@pytest.fixture
def made() -> tuple[Float[Tensor, "n k d_model"], Float[Tensor, "n f"]]:
    """Slots' contents, and the directions that a linear map makes of what is moved to minus what is moved from."""
    slots = unit(400, 3, D_MODEL, seed=0)
    return slots, (slots[:, 1] - slots[:, 2]) @ torch.randn(
        D_MODEL, LAYERS * D_MODEL, generator=torch.Generator().manual_seed(1)
    )


def test_evidence_is_clarity_times_the_cosine_to_what_the_slots_explain(made: tuple[Tensor, Tensor]):
    slots, directions = made
    gate = Gate(D_MODEL, LAYERS, SILENCE)
    gate.explain([(slots, directions)])
    cosines = torch.rand(len(slots), 3, 20, generator=torch.Generator().manual_seed(2))
    cosines[:, :, SILENCE] = 1.0  # naming "no" is no evidence
    cosines[:, 0] = 1.0  # nor is the strength
    rest = torch.cat([cosines[..., :SILENCE], cosines[..., SILENCE + 1 :]], -1)
    clarity = (rest[:, 1].amax(-1) + rest[:, 2].amax(-1)) / 2
    torch.testing.assert_close(gate.evidence(cosines, slots, directions), clarity, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gate.evidence(cosines, slots, -directions), -clarity, rtol=1e-3, atol=1e-3)
    others = gate.evidence(cosines, slots, directions.roll(1, 0))
    assert (others.abs() < clarity).all() and others.abs().mean() < 0.4 * clarity.mean()


def test_the_threshold_is_the_share_of_the_median_that_was_asked_for_and_the_median_is_sure():
    gate, evidence = Gate(D_MODEL, LAYERS, SILENCE), torch.linspace(0.2, 0.8, 101)
    gate.set(evidence, 0.6)
    confidence = gate.confidence(torch.tensor([0.29, 0.30, 0.31, 0.50]))
    assert confidence[0] < 0.5 < confidence[2]
    torch.testing.assert_close(confidence[[1, 3]], torch.tensor([0.5, 0.99]))


def test_a_new_gate_is_open(made: tuple[Tensor, Tensor]):
    slots, directions = made
    gate = Gate(D_MODEL, LAYERS, SILENCE)
    assert (gate.confidence(gate.evidence(-torch.ones(len(slots), 3, 20), slots, directions)) > 0.5).all()
