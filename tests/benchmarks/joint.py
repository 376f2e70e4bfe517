"""Gradients and virtual steps of the same samples in one go: the prefixes, most of the work, are run once.

No stage does so, since a change of step sizes then reruns no gradient (docs/scale.md); it is what the engine can do.
"""

from collections.abc import Callable, Iterator, Sequence

from stages.core.engine.batches import Rows
from stages.core.engine.gradients import GradientBatch, measure
from stages.core.engine.prefix import Prefix, over_prefixes
from stages.core.engine.samples import Sample, check_samples
from stages.core.model.decoder import Decoder
from stages.core.steps.virtual_step import ShiftBatch, Steps


def gradients_and_steps(
    decoder: Decoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    step_sizes: Sequence[float],
    *,
    top_tokens: int,
    continuation_tokens: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Iterator[tuple[GradientBatch, ShiftBatch]]:
    """Yields gradients and virtual steps of all samples, batch by batch.

    Arguments, order and errors are those of `activation_gradients` and `virtual_steps`.
    """
    steps = Steps(decoder, layers, step_sizes, top_tokens, continuation_tokens)
    check_samples(decoder, samples)

    def compute(batch: Sequence[Sample], rows: Rows, prefix: Prefix) -> tuple[GradientBatch, ShiftBatch]:
        measured = measure(decoder, batch, rows, layers, prefix)
        return measured, steps.take(batch, measured.gradient, rows, prefix)

    yield from over_prefixes(
        decoder,
        samples,
        compute,
        follow=lambda sample: len(sample.target) - 1,
        versions=max(steps.versions, *(len(sample.target) for sample in samples), 1),
        advance=advance,
    )
