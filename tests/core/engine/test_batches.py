import logging

import numpy as np
import pytest
import torch

from stages.core.engine.batches import in_batches, out_of_memory, padded, plan, token_budget
from tests.core.engine.families import tiny


def lengths(count: int = 400) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [(int(rng.integers(1, 40)), int(rng.integers(0, 3))) for _ in range(count)]


@pytest.mark.parametrize("exact", [True, False])
def test_every_row_is_in_exactly_one_batch_within_the_budget(exact: bool) -> None:
    rows = lengths()
    batches = plan(rows, tokens=128, rows=10, join="equal" if exact else "near")
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= 10
        assert len(batch) * max(sum(rows[row]) for row in batch) <= 128
        if exact:
            assert len({rows[row][0] for row in batch}) == 1


def test_few_rows_of_many_lengths_share_batches_and_many_rows_do_not() -> None:
    few = plan([(length, 0) for length in range(20, 40)], tokens=1000, rows=100)
    assert len(few) < 10
    many = plan([(length, 0) for length in range(20, 40) for _ in range(100)], tokens=1000, rows=100)
    spread = [max(batch // 100) - min(batch // 100) for batch in many]
    assert sum(spread) < 0.2 * len(many)


def test_a_row_longer_than_the_budget_has_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in plan([(50, 1), (3, 0)], tokens=10, rows=5)] == [[0], [1]]


def test_nothing_to_do_gives_no_batches() -> None:
    assert plan([], tokens=10, rows=5) == []


def test_the_budget_is_the_same_every_time_and_smaller_for_a_wider_model() -> None:
    narrow, wide = tiny("qwen3"), tiny("qwen3", hidden_size=256)
    assert token_budget(narrow) == token_budget(narrow) > token_budget(wide)


def test_out_of_memory_halves_the_batches_says_so_and_loses_no_row(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def compute(rows: np.ndarray) -> list[int]:
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return rows.tolist()

    done: list[int] = []
    with caplog.at_level(logging.WARNING):
        found = list(in_batches([np.arange(10), np.arange(10, 20)], compute, done.append))
    assert sorted(row for rows in found for row in rows) == list(range(20))
    assert sum(done) == 20
    assert sum(size > 3 for size in tried) == 2
    assert "out of memory with 10 rows in a batch: going on with at most 5" in caplog.text


def test_a_single_row_that_does_not_fit_and_any_other_error_are_raised() -> None:
    def fails(error: Exception) -> None:
        def compute(rows: np.ndarray) -> None:
            raise error

        list(in_batches([np.arange(1)], compute, None))

    with pytest.raises(torch.OutOfMemoryError):
        fails(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        fails(RuntimeError("shapes"))


def test_an_allocation_that_fails_on_the_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert out_of_memory(caught.value)


def test_padding_is_on_the_right() -> None:
    assert padded([(5, 6, 7), (8,)], torch.device("cpu")).tolist() == [[5, 6, 7], [8, 8, 8]]
    assert padded([(), ()], torch.device("cpu")).shape == (2, 0)
