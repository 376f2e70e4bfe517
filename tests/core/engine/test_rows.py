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
