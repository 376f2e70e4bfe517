from dataclasses import replace

import pytest

from stages.core.engine.samples import BadRowsError, Sample, check_layers, check_samples
from tests.core.engine.families import tiny

GOOD = Sample((5, 6), (7,), (8,))


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
