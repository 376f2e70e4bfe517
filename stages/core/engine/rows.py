"""Rows of the prompts table as samples for the engine, and the engine's errors in terms of that table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import polars as pl

from ..data.places import SUBJECT
from ..model.decoder import Decoder
from ..run.errors import InputError
from .samples import BadRowsError, Sample


def samples_of(decoder: Decoder, prompts: pl.DataFrame, places: Sequence[str] = ()) -> list[Sample]:
    """One sample a row: token ids of prompt, target and answer, the last two as they follow the prompt.

    The subject's last token is looked for where `subject` is one of the places, and the row has a subject.
    """
    read, follow = cache(decoder.tokens), cache(decoder.continuation)  # texts repeat, and take as long as gradients
    samples = [
        Sample(
            prompt=tuple(read(prompt)),
            target=tuple(follow(target)),
            answer=None if answer is None else tuple(follow(answer)),
        )
        for prompt, target, answer in prompts.select("prompt", "target", "answer").iter_rows()
    ]
    if SUBJECT not in places:
        return samples
    texts = prompts.select("prompt", "template", "subject").iter_rows()
    pairs = zip(samples, texts, strict=True)
    return [replace(one, subject=subject_token(read, *text), subjectless=not text[-1]) for one, text in pairs]


def subject_token(read: Callable[[str], list[int]], prompt: str, template: str, subject: str) -> int | None:
    """The index of the subject's last token among the prompt's tokens, which `read` gives.

    None where the template with the subject is not the prompt, or a token goes on behind the subject: the tokens of the
    text that ends with it have to be the prompt's first.
    """
    before, found, _ = template.partition("{subject}")
    if not found or template.replace("{subject}", subject) != prompt:
        return None
    own = read(before + subject)
    return len(own) - 1 if own == read(prompt)[: len(own)] else None


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
