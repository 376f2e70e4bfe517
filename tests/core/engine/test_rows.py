import polars as pl
import pytest

from stages.core.engine.gradients import activation_gradients
from stages.core.engine.rows import naming_prompts, samples_of
from stages.core.model.decoder import Decoder

GOOD = ("good", "The capital of Peru is", "Oslo", "Lima")
BAD = {
    "empty target": ("bad", "The capital of Peru is", "", "Lima"),
    "empty prompt": ("bad", "", "Oslo", "Lima"),
    "target equal to the answer": ("bad", "The capital of Peru is", "Lima", "Lima"),
    "prompt and target longer than the context": ("bad", "Peru " * 2000, "Oslo", None),
}


@pytest.mark.parametrize("reason", BAD)
def test_rows_that_cannot_be_measured_are_refused_by_the_name_of_their_prompt_and_counted(
    small_decoder: Decoder, reason: str
):
    columns = ["prompt_id", "prompt", "target", "answer"]
    prompts = pl.DataFrame([GOOD, BAD[reason], GOOD, BAD[reason]], schema=columns, orient="row")
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
