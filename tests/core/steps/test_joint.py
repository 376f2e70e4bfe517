import logging
from dataclasses import fields

import numpy as np
import pytest
import torch

from stages.core.engine.gradients import GradientBatch, activation_gradients, measure
from stages.core.engine.samples import BadRowsError, Sample
from stages.core.steps.virtual_step import virtual_steps
from tests.benchmarks import joint
from tests.benchmarks.joint import gradients_and_steps
from tests.core.engine import reference
from tests.core.engine.families import VOCABULARY, tiny


def by_row(batches: list[GradientBatch]) -> GradientBatch:
    """All batches as one, in the samples' order."""
    order = np.argsort(np.concatenate([batch.rows for batch in batches]))
    named = {
        part.name: np.concatenate([getattr(batch, part.name) for batch in batches])[order]
        for part in fields(GradientBatch)
    }
    return GradientBatch(**named)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt_neox"])
def test_gives_what_gradients_and_steps_give_one_after_the_other(family: str) -> None:
    decoder, samples, layers, sizes = tiny(family), reference.draw(10, VOCABULARY), [2, 0], [0.1, 1.0]
    both = list(gradients_and_steps(decoder, samples, layers, sizes, top_tokens=5, continuation_tokens=2))
    found = by_row([measured for measured, _ in both])
    wanted = by_row(list(activation_gradients(decoder, samples, layers)))
    np.testing.assert_allclose(found.gradient, wanted.gradient, atol=1e-5 * np.abs(wanted.gradient).max())
    np.testing.assert_allclose(found.target_logprob, wanted.target_logprob, rtol=1e-5)
    steps = {int(row): (batch, at) for _, batch in both for at, row in enumerate(batch.rows)}
    for batch in virtual_steps(decoder, samples, found.gradient, layers, sizes, top_tokens=5, continuation_tokens=2):
        for place, row in enumerate(batch.rows):
            one, at = steps[int(row)]
            np.testing.assert_allclose(one.up_shifts[at], batch.up_shifts[place], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.kl[at], batch.kl[place], rtol=1e-3, atol=1e-5)
            assert one.continuation_after[at] == batch.continuation_after[place]


def test_no_samples_give_no_batches() -> None:
    assert list(gradients_and_steps(tiny("qwen3"), [], [1], [0.1], top_tokens=3)) == []


def test_out_of_memory_halves_the_budget_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoder, samples = tiny("qwen3"), reference.draw(24, VOCABULARY)
    wanted = by_row(list(activation_gradients(decoder, samples, [1])))

    def cramped(*given: object) -> GradientBatch:
        if len(given[1]) > 6:  # pyright: ignore[reportArgumentType]
            raise torch.OutOfMemoryError("out of memory")
        return measure(*given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(joint, "measure", cramped)
    with caplog.at_level(logging.WARNING):
        both = list(gradients_and_steps(decoder, samples, [1], [0.1], top_tokens=3))
    found = by_row([measured for measured, _ in both])
    np.testing.assert_allclose(found.gradient, wanted.gradient, atol=1e-5 * np.abs(wanted.gradient).max())
    assert "out of memory with 24 rows in a batch: going on with at most 12" in caplog.text
    assert "going on with at most 6" in caplog.text


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_refused_with_its_row_and_the_count(value: float) -> None:
    decoder = tiny("qwen3", tie_word_embeddings=False)
    next(decoder.embedding.parameters()).data[17] = value
    samples = [Sample((5, 6), (7,)), Sample((5, 17), (7,)), Sample((17, 6), (8,))]
    with pytest.raises(BadRowsError, match="loss or gradient is not finite: 2 rows: 1, 2"):
        list(gradients_and_steps(decoder, samples, [1], [0.1], top_tokens=3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Sample((5,), ()), "empty target"),
        (Sample((5,), (7,), (7,)), "target equal to the answer"),
        (Sample((5,) * 70, (7,)), "longer than the context"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused_before_anything_runs(bad: Sample, message: str) -> None:
    told: list[int] = []
    with pytest.raises(BadRowsError, match=rf"{message}.*: 1 row: 1"):
        list(
            gradients_and_steps(tiny("qwen3"), [Sample((5,), (7,)), bad], [1], [0.1], top_tokens=3, advance=told.append)
        )
    assert told == []
