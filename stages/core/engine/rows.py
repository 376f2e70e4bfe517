"""Rows of the prompts table as samples for the engine, and the engine's errors in terms of that table."""

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from ..model.decoder import Decoder
from ..run.errors import InputError
from .samples import BadRowsError, Sample


def samples_of(decoder: Decoder, prompts: pl.DataFrame) -> list[Sample]:
    """One sample a row: token ids of prompt, target and answer, the last two as they follow the prompt."""
    return [
        Sample(
            prompt=tuple(decoder.tokens(prompt)),
            target=tuple(decoder.continuation(target)),
            answer=None if answer is None else tuple(decoder.continuation(answer)),
        )
        for prompt, target, answer in prompts.select("prompt", "target", "answer").iter_rows()
    ]


@contextmanager
def naming_prompts(prompts: pl.DataFrame, table: str) -> Iterator[None]:
    """Turns the engine's refusal of rows into an error that names their prompts.

    Raises:
        InputError: rows were refused; names the table, the first row's prompt_id and text, the reason and the count.
    """
    try:
        yield
    except BadRowsError as error:
        row = prompts.row(error.rows[0], named=True)
        raise InputError(
            f"{table}: prompt {row['prompt_id']} ({row['prompt']!r} -> {row['target']!r}): {error.reason}; "
            f"{len(error.rows)} such rows"
        ) from error
