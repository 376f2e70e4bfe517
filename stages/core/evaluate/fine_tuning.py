"""Fine-tuning on one sample for real: how far it moves that sample's activation."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from ..engine.samples import Sample
from ..model.decoder import Decoder, residual

STEPS = 5
LEARNING_RATE = 3e-4


def activation_moves(
    decoder: Decoder, samples: Sequence[Sample], layers: Sequence[int]
) -> Float[np.ndarray, "sample layer d_model"]:
    """Activation after minus before fine-tuning all weights on one sample, at the last prompt token, sample by sample.

    STEPS steps of Adam on the sample's own loss, -log p(target | prompt); the weights are put back after each sample.
    """
    parameters = list(decoder.model.parameters())
    kept = [value.detach().clone() for value in parameters]
    moves = []
    try:
        for value in parameters:
            value.requires_grad_(True)
        for sample in samples:
            before = activations(decoder, sample, layers)
            optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
            for _ in range(STEPS):
                optimizer.zero_grad()
                sample_loss(decoder, sample).backward()
                optimizer.step()
            moves.append(activations(decoder, sample, layers) - before)
            restore(parameters, kept)
    finally:
        restore(parameters, kept)
        for value in parameters:
            value.requires_grad_(False)
            value.grad = None
    return np.stack(moves)


def restore(parameters: Sequence[torch.nn.Parameter], kept: Sequence[torch.Tensor]) -> None:
    """Puts the kept values back in place."""
    with torch.no_grad():
        for value, old in zip(parameters, kept, strict=True):
            value.copy_(old)


def sample_loss(decoder: Decoder, sample: Sample) -> torch.Tensor:
    """-log p(target | prompt), teacher-forced, nats."""
    ids = torch.tensor([[*sample.prompt, *sample.target]], device=decoder.device)
    logits = decoder.model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt) - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, len(sample.prompt) :], reduction="sum")


@torch.no_grad()
def activations(decoder: Decoder, sample: Sample, layers: Sequence[int]) -> Float[np.ndarray, "layer d_model"]:
    """The residual stream after each of the layers at the last prompt token."""
    seen: dict[int, torch.Tensor] = {}

    def note(layer: int):
        return lambda module, arguments, output: seen.__setitem__(layer, residual(output)[0, -1].float().cpu())

    handles = [decoder.blocks[layer].register_forward_hook(note(layer)) for layer in layers]
    try:
        decoder.model(input_ids=torch.tensor([sample.prompt], device=decoder.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([seen[layer] for layer in layers]).numpy()
