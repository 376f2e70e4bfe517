"""What a user would write: one sample at a time, a hook on the full model, autograd. Slow, plain and right."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.core.data.places import FIRST
from stages.core.engine.samples import Sample
from stages.core.model.decoder import Decoder, residual, with_residual


def draw(count: int, vocabulary: int, seed: int = 0, longest: int = 12) -> list[Sample]:
    """Random samples: prompts of 1 to `longest` tokens, targets of 1 to 3, answers of 1 to 3 or none, any subject."""
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(3, vocabulary, size=rng.integers(low, high + 1)))

    samples: list[Sample] = []
    while len(samples) < count:
        prompt, target = some(1, longest), some(1, 3)
        answer = some(1, 3) if len(samples) % 4 else None
        if answer != target:
            samples.append(Sample(prompt, target, answer, subject=len(samples) * 5 % len(prompt)))
    return samples


def logprob(decoder: Decoder, prompt: Sequence[int], follow: Sequence[int]) -> Tensor:
    """log p(follow | prompt) by the full model."""
    logits = decoder.model(torch.tensor([[*prompt, *follow]]), use_cache=False).logits[0].log_softmax(-1)
    return sum((logits[len(prompt) - 1 + step, token] for step, token in enumerate(follow)), torch.tensor(0.0))


def gradient(decoder: Decoder, sample: Sample, layer: int, place: str = FIRST) -> tuple[np.ndarray, np.ndarray, float]:
    """dL/dh and h at a place after the layer's block (zeros where there is none), and log p(target | prompt)."""
    kept: list[Tensor] = []

    def keep(_module: object, _arguments: object, output: object) -> object:
        stream = residual(output).detach().requires_grad_()
        kept.append(stream)
        return with_residual(output, stream)

    handle = decoder.blocks[layer].register_forward_hook(keep)
    try:
        value = logprob(decoder, sample.prompt, sample.target)
    finally:
        handle.remove()
    (found,) = torch.autograd.grad(-value, kept)
    position = sample.position(place)
    if position < 0:
        return np.zeros(decoder.d_model), np.zeros(decoder.d_model), value.item()
    return found[0, position].numpy(), kept[0][0, position].detach().numpy(), value.item()


@torch.no_grad()
def injected_logprobs(
    decoder: Decoder, sample: Sample, layer: int, direction: np.ndarray, step: float, follow: Sequence[int] = ()
) -> Tensor:
    """Next-token log-probabilities after prompt and `follow`, with h' in place at the last prompt token."""
    position = len(sample.prompt) - 1

    def inject(_module: object, _arguments: object, output: object) -> object:
        stream = residual(output).clone()
        here = stream[0, position]
        unit = torch.from_numpy(direction).to(stream)
        size = unit.norm()
        stream[0, position] = here + step * here.norm() * (unit / size if size > 0 else unit)
        return with_residual(output, stream)

    handle = decoder.blocks[layer].register_forward_hook(inject)
    try:
        logits = decoder.model(torch.tensor([[*sample.prompt, *follow]]), use_cache=False).logits
    finally:
        handle.remove()
    return logits[0, -1].log_softmax(-1)


def injected_text(
    decoder: Decoder, sample: Sample, layer: int, direction: np.ndarray, step: float, tokens: int
) -> tuple[int, ...]:
    """Greedy continuation under the injection, by the full model from scratch for each token."""
    text: list[int] = []
    while len(text) < tokens:
        token = int(injected_logprobs(decoder, sample, layer, direction, step, text).argmax())
        if token in decoder.eos_ids():
            break
        text.append(token)
    return tuple(text)
