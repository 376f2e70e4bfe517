"""Gradient and virtual steps of the same samples at once: the prefixes, most of the work, run a single time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from ..engine.batches import group_plan, in_batches, token_budget
from ..engine.gradients import GradientBatch, measure
from ..engine.prefix import run_prefix, takes_padding
from ..engine.samples import Sample, check_samples
from ..model.decoder import Decoder
from .virtual_step import ShiftBatch, Steps


def gradients_and_steps(
    decoder: Decoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    step_sizes: Sequence[float],
    *,
    top_tokens: int,
    continuation_tokens: int = 0,
    advance: Callable[[int], None] | None = None,
    tokens: int | None = None,
    hybrid: bool = False,
) -> Iterator[tuple[GradientBatch, ShiftBatch]]:
    """Measures every sample and takes every step along its update direction; see `activation_gradients` and
    `virtual_steps` for arguments, order and errors.
    """
    steps = Steps.checked(decoder, layers, step_sizes, top_tokens, continuation_tokens)
    check_samples(decoder, samples)
    budget = tokens or token_budget(decoder)
    lengths = [(len(sample.prompt), len(sample.target) - 1) for sample in samples]
    versions = max(steps.versions, *(len(sample.target) for sample in samples), 1)
    batches = group_plan(decoder, lengths, budget=budget, versions=versions, mixed=takes_padding(decoder))

    def compute(rows: Int[np.ndarray, " b"]) -> tuple[GradientBatch, ShiftBatch]:
        batch = [samples[row] for row in rows]
        prefix = run_prefix(decoder, [sample.prompt[:-1] for sample in batch], tokens=budget, hybrid=hybrid)
        measured = measure(decoder, batch, rows, layers, prefix)
        return measured, steps.take(batch, measured.gradient, rows, prefix)

    yield from in_batches(batches, compute, advance)
