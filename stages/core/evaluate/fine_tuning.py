"""Fine-tuning for real, and back again: how far it moves an activation, and what a model says once a fact is edited."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from ..engine.descent import descend
from ..engine.gradients import streams_after
from ..engine.samples import Sample
from ..model.decoder import Decoder

STEPS = 5
LEARNING_RATE = 3e-4


@contextmanager
def trainable(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Within the block all its weights learn. Yields a function that puts them back, as leaving the block does."""
    parameters = list(module.parameters())
    kept = [value.detach().clone() for value in parameters]

    @torch.no_grad()
    def put_back() -> None:
        for value, old in zip(parameters, kept, strict=True):
            value.copy_(old)

    try:
        for value in parameters:
            value.requires_grad_(True)
        yield put_back
    finally:
        put_back()
        for value in parameters:
            value.requires_grad_(False)
            value.grad = None


def tune(decoder: Decoder, samples: Sequence[Sample], steps: int, rate: float, enough: float = 0.0) -> None:
    """At most `steps` steps of Adam, of the weights that learn, until the loss is at most `enough`.

    The loss is -log p(target | prompt), nats, summed over the samples.
    """
    learning = [value for value in decoder.model.parameters() if value.requires_grad]
    descend(
        torch.optim.Adam(learning, lr=rate),
        lambda: torch.stack([sample_loss(decoder, sample) for sample in samples]).sum(),
        steps,
        enough,
    )


def activation_moves(
    decoder: Decoder, samples: Sequence[Sample], layers: Sequence[int]
) -> Float[np.ndarray, "sample layer d_model"]:
    """Activation after minus before fine-tuning all weights on one sample, at the last prompt token, sample by sample.

    STEPS steps of Adam on the sample's own loss; the weights are put back after each sample.
    """
    moves = []
    with trainable(decoder.model) as put_back:
        for sample in samples:
            before = activations(decoder, sample, layers)
            tune(decoder, [sample], STEPS, LEARNING_RATE)
            moves.append(activations(decoder, sample, layers) - before)
            put_back()
    return np.stack(moves)


def sample_loss(decoder: Decoder, sample: Sample) -> torch.Tensor:
    """-log p(target | prompt), teacher-forced, nats."""
    ids = torch.tensor([[*sample.prompt, *sample.target]], device=decoder.device)
    logits = decoder.model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt) - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, len(sample.prompt) :], reduction="sum")


@torch.no_grad()
def activations(decoder: Decoder, sample: Sample, layers: Sequence[int]) -> Float[np.ndarray, "layer d_model"]:
    """The residual stream after each of the layers at the last prompt token."""
    with streams_after(decoder.blocks, layers) as streams:
        decoder.model(input_ids=torch.tensor([sample.prompt], device=decoder.device), use_cache=False)
    return torch.stack([streams[layer][0, -1].float().cpu() for layer in layers]).numpy()
