from dataclasses import replace

import polars as pl
import pytest

from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import BadRowsError, Sample, check_layers, check_samples, naming_prompts, samples_of
from stages.core.model.decoder import Decoder
from tests.core.engine.families import tiny

GOOD = Sample((5, 6), (7,), (8,))
GOOD_ROW = ("good", "The capital of Peru is", "Oslo", "Lima")
BAD_ROWS = {
    "empty target": ("bad", "The capital of Peru is", "", "Lima"),
    "empty prompt": ("bad", "", "Oslo", "Lima"),
    "target equal to the answer": ("bad", "The capital of Peru is", "Lima", "Lima"),
    "prompt and target longer than the context": ("bad", "Peru " * 2000, "Oslo", None),
}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Sample((), (7,)), "empty prompt"),
        (Sample((5,), ()), "empty target"),
        (Sample((5,), (7,), ()), "empty answer"),
        (Sample((5,), (7, 8), (7, 8)), "target equal to the answer"),
        (Sample((5, 61), (7,)), "token id outside the vocabulary .wanted 0 to 60."),
        (Sample((5,), (-1,)), "token id outside the vocabulary"),
        (Sample((5,) * 63, (7, 8, 9)), "longer than the context .wanted at most 64 tokens."),
    ],
)
def test_a_bad_row_is_refused_and_named(bad: Sample, message: str) -> None:
    with pytest.raises(BadRowsError, match=f"{message}.*: 2 rows: 1, 3") as caught:
        check_samples(tiny("qwen3"), [GOOD, bad, GOOD, bad])
    assert caught.value.rows == [1, 3]


@pytest.mark.parametrize("subject", [None, 2, -1])
def test_a_row_without_the_subject_that_is_asked_for_is_refused(subject: int | None) -> None:
    samples = [replace(GOOD, subject=1), replace(GOOD, subject=subject)]
    check_samples(tiny("qwen3"), samples)
    with pytest.raises(BadRowsError, match=r"subject not found in the prompt .*: 1 row: 1"):
        check_samples(tiny("qwen3"), samples, ["target_1", "subject"])


def test_places_are_positions_of_prompt_and_target() -> None:
    sample = Sample((5, 6, 7), (8, 9), subject=1)
    assert [sample.position(place) for place in ("target_1", "target_2", "target_3", "subject")] == [2, 3, -1, 1]
    assert (sample.start(["target_1"]), sample.suffix(["target_1"])) == (2, 2)
    assert (sample.start(["target_1", "subject"]), sample.suffix(["subject"])) == (1, 3)


def test_rows_that_fill_the_context_are_taken() -> None:
    check_samples(tiny("qwen3"), [Sample((5,) * 63, (7, 8)), GOOD])


def test_many_bad_rows_are_counted_and_the_first_ones_named() -> None:
    assert str(BadRowsError("reason", range(12))) == "reason: 12 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


@pytest.mark.parametrize("layers", [[], [1, 1], [4], [-1]])
def test_layers_that_do_not_exist_or_repeat_are_refused(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="found"):
        check_layers(tiny("qwen3"), layers)


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_rows_that_cannot_be_measured_are_refused_by_the_name_of_their_prompt_and_counted(
    small_decoder: Decoder, reason: str
):
    columns = ["prompt_id", "prompt", "target", "answer"]
    prompts = pl.DataFrame([GOOD_ROW, BAD_ROWS[reason], GOOD_ROW, BAD_ROWS[reason]], schema=columns, orient="row")
    told: list[int] = []
    message = rf"^x.parquet: prompt bad \('.*' -> '.*'\): {reason}.*; 2 such rows$"
    with pytest.raises(ValueError, match=message), naming_prompts(prompts, "x.parquet"):
        list(activation_gradients(small_decoder, samples_of(small_decoder, prompts), [1], advance=told.append))
    assert not told


def subjects(decoder: Decoder, *texts: tuple[str, str, str]) -> list[int | None]:
    columns = ["template", "subject", "prompt"]
    table = pl.DataFrame(texts, schema=columns, orient="row").with_columns(target=pl.lit("Oslo"), answer=pl.lit("Lima"))
    return [sample.subject for sample in samples_of(decoder, table, ["target_1", "subject"])]


def test_the_subject_is_its_last_token_in_the_prompt(small_decoder: Decoder):
    one, two = "The capital of {subject} is", "{subject} is"
    found = subjects(
        small_decoder,
        (one, "Peru", "The capital of Peru is"),
        (one, "Richard Strauss", "The capital of Richard Strauss is"),
        (two, "Peru", "Peru is"),
        ("It is {subject}", "Salome", "It is Salome"),
    )
    assert found == [3, 4, 0, 2]


def test_a_subject_that_is_not_there_or_goes_on_in_its_token_is_not_found(small_decoder: Decoder):
    found = subjects(
        small_decoder,
        ("The capital is", "Peru", "The capital is"),
        ("The capital of {subject} is", "Peru", "The capital of Oslo is"),
        ("The {subject}ital of Peru is", "cap", "The capital of Peru is"),
    )
    assert found == [None, None, None]
    table = pl.DataFrame(
        [("bad", "The capital is", "Peru", "The capital is", "Oslo", "Lima")],
        schema=["prompt_id", "template", "subject", "prompt", "target", "answer"],
        orient="row",
    )
    places = ["target_1", "subject"]
    message = r"^x.parquet: prompt bad \('The capital is' -> 'Oslo'\): subject not found in the prompt .*; 1 such rows$"
    with pytest.raises(ValueError, match=message), naming_prompts(table, "x.parquet"):
        list(activation_gradients(small_decoder, samples_of(small_decoder, table, places), [1], places))
