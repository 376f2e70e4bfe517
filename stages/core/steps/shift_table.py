"""The virtual_step table of a domain."""

from collections.abc import Callable

import numpy as np
import polars as pl
from jaxtyping import Float

from ..data.tables import VIRTUAL_STEP
from ..engine.rows import samples_of
from ..model.decoder import Decoder
from .section import VirtualStep
from .virtual_step import virtual_steps


def shift_table(
    decoder: Decoder,
    prompts: pl.DataFrame,
    gradients: Float[np.ndarray, "sample 1 d_model"],
    settings: VirtualStep,
    advance: Callable[[int], None],
) -> pl.DataFrame:
    """The virtual_step table: one row for each prompt and step size, in the order of the prompts."""
    batches = virtual_steps(
        decoder,
        samples_of(decoder, prompts),
        gradients,
        [settings.layer],
        settings.step_sizes,
        top_tokens=settings.top_tokens,
        continuation_tokens=settings.continuation_tokens,
        advance=advance,
    )
    tokenizer = decoder.tokenizer
    assert tokenizer is not None
    words = [str(tokenizer.decode([token])).strip() for token in range(len(tokenizer))]

    def said(ids: tuple[int, ...]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    found: dict[int, list[dict[str, object]]] = {}
    for batch in batches:
        for b, row in enumerate(batch.rows.tolist()):
            found[row] = [
                {
                    "prompt_id": prompts["prompt_id"][row],
                    "layer": settings.layer,
                    "step_size": size,
                    "up_tokens": [words[token] for token in batch.up_ids[b, 0, s]],
                    "up_shifts": batch.up_shifts[b, 0, s].tolist(),
                    "down_tokens": [words[token] for token in batch.down_ids[b, 0, s]],
                    "down_shifts": batch.down_shifts[b, 0, s].tolist(),
                    "target_logprob_before": float(batch.target_before[b]),
                    "target_logprob_after": float(batch.target_after[b, 0, s]),
                    "answer_logprob_before": none_for_nan(batch.answer_before[b]),
                    "answer_logprob_after": none_for_nan(batch.answer_after[b, 0, s]),
                    "target_rank": int(batch.target_rank[b, 0, s]),
                    "kl": float(batch.kl[b, 0, s]),
                    "continuation_before": said(batch.continuation_before[b]),
                    "continuation_after": said(batch.continuation_after[b][0][s]),
                }
                for s, size in enumerate(settings.step_sizes)
            ]
    return pl.DataFrame([each for row in sorted(found) for each in found[row]], schema=VIRTUAL_STEP)


def none_for_nan(value: np.float32) -> float | None:
    """The number; None for NaN, which stands for the log-probability of an unknown answer."""
    return None if np.isnan(value) else float(value)
