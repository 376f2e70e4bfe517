"""Samples (prompt, target and answer as token ids), made of rows of the prompts table, and the check of their loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import polars as pl

from ..data.places import SUBJECT, target_token
from ..model.decoder import Decoder
from ..run.errors import InputError

NAMED_ROWS = 10


@dataclass(frozen=True)
class Sample:
    """One row: token ids of the prompt (special tokens included), of the target, and of the answer where known.

    `subject`: the index of the subject's last token in the prompt; None: not asked for, or not found.
    `subjectless`: the row is about none, and has no gradient there.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    answer: tuple[int, ...] | None = None
    subject: int | None = None
    subjectless: bool = False

    def start(self, places: Sequence[str]) -> int:
        """The index of the first token that a gradient at these places, or the loss, needs."""
        return self.position(SUBJECT) if SUBJECT in places and not self.subjectless else len(self.prompt) - 1

    def suffix(self, places: Sequence[str]) -> int:
        """The number of tokens that are read from there on: all but the target's last."""
        return len(self.prompt) + len(self.target) - 1 - self.start(places)

    def position(self, place: str) -> int:
        """The index of a place among the tokens of prompt and target; -1: the row is without it."""
        if place == SUBJECT and self.subjectless:
            return -1
        if place == SUBJECT:
            assert self.subject is not None
            return self.subject
        number = target_token(place)
        return len(self.prompt) + number - 2 if number <= len(self.target) else -1


class BadRowsError(InputError):
    """Rows that are refused, all for the same reason. `rows`: their indices into the samples, ascending."""

    def __init__(self, reason: str, rows: Sequence[int]) -> None:
        self.reason = reason
        self.rows = sorted(rows)
        named = ", ".join(str(row) for row in self.rows[:NAMED_ROWS])
        more = f" and {len(self.rows) - NAMED_ROWS} more" if len(self.rows) > NAMED_ROWS else ""
        super().__init__(f"{reason}: {len(self.rows)} {'rows' if len(self.rows) > 1 else 'row'}: {named}{more}")


def check_samples(decoder: Decoder, samples: Sequence[Sample], places: Sequence[str] = ()) -> None:
    """Refuses rows that have no loss, before anything is computed.

    Raises:
        BadRowsError: a prompt or target is empty, an answer is empty or equal to its target, a token is outside the
            vocabulary, prompt and target (or answer) together are longer than the context, or a subject is asked for
            and the prompt has none.
    """
    limit = decoder.context_length

    def too_long(sample: Sample) -> bool:
        # The last token of a target is predicted, never read.
        read = max(len(sample.target), len(sample.answer or ())) - 1
        return limit is not None and len(sample.prompt) + read > limit

    def unknown_token(sample: Sample) -> bool:
        tokens = (*sample.prompt, *sample.target, *(sample.answer or ()))
        return any(not 0 <= token < decoder.vocabulary for token in tokens)

    def no_subject(sample: Sample) -> bool:
        asked = SUBJECT in places and not sample.subjectless
        return asked and (sample.subject is None or not 0 <= sample.subject < len(sample.prompt))

    rules = {
        "empty prompt (found 0 tokens, wanted at least 1)": lambda sample: not sample.prompt,
        "empty target (found 0 tokens, wanted at least 1)": lambda sample: not sample.target,
        "empty answer (found 0 tokens, wanted at least 1, or None)": lambda sample: sample.answer == (),
        "target equal to the answer (wanted different tokens)": lambda sample: sample.target == sample.answer,
        f"token id outside the vocabulary (wanted 0 to {decoder.vocabulary - 1})": unknown_token,
        f"prompt and target longer than the context (wanted at most {limit} tokens)": too_long,
        "subject not found in the prompt (wanted its template's, and a token that ends where it does)": no_subject,
    }
    for reason, broken in rules.items():
        if rows := [row for row, sample in enumerate(samples) if broken(sample)]:
            raise BadRowsError(reason, rows)


def check_layers(decoder: Decoder, layers: Sequence[int]) -> None:
    """Refuses an empty list of layers, a layer twice and one that the model does not have.

    Raises:
        InputError: names what was found and wanted.
    """
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"layers: found {list(layers)}, wanted at least one layer and none twice")
    for layer in layers:
        decoder.check_layer(layer)


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
