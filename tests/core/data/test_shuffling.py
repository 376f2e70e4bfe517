"""Shuffled batches: an epoch has every row once, a batch is a function of name and step, blocks are read whole."""

from collections import Counter

import numpy as np
import pytest

from stages.core.data import gathering
from stages.core.data.gathering import BLOCK_ROWS, Shuffled

ROWS, SIZE = 5 * BLOCK_ROWS + 100, 300
NUMBERS = np.arange(3 * ROWS, dtype=np.float32)[:, None, None]
OWN = np.arange(0, 3 * ROWS, 3)


class Counted(np.ndarray):
    """An array that keeps which rows were asked for."""

    asked: list[np.ndarray]

    def __getitem__(self, rows):
        self.asked.append(rows)
        return np.asarray(self)[rows]


@pytest.fixture
def counted() -> Counted:
    vectors = NUMBERS.view(Counted)
    vectors.asked = []
    return vectors


def drawn(shuffled: Shuffled, step: int, size: int = SIZE) -> np.ndarray:
    """The rows of a batch; what is in memory must be theirs, and the other rows of their blocks."""
    found = []
    for rows in shuffled.batch("train", step, size):
        for some in (rows, rows // BLOCK_ROWS * BLOCK_ROWS):
            np.testing.assert_array_equal(shuffled.vectors(some)[:, 0, 0], OWN[some])
        found.append(rows)
    return np.concatenate(found)


@pytest.mark.parametrize("held", [2, 32])
def test_an_epoch_has_every_row_once_and_every_block_is_read_whole_and_once(
    counted: Counted, held: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gathering, "HELD_BLOCKS", held)
    shuffled = Shuffled(OWN, counted, 0)
    assert len(shuffled.held) == min(held, 6) * BLOCK_ROWS
    found = np.concatenate([drawn(shuffled, step) for step in range(2 * ROWS // SIZE + 1)])
    assert sorted(found[:ROWS]) == sorted(found[ROWS : 2 * ROWS]) == list(range(ROWS))
    assert not np.array_equal(found[:ROWS], found[ROWS : 2 * ROWS])
    read = Counter(tuple(rows[[0, -1]]) for rows in counted.asked)
    blocks = [OWN[start : start + BLOCK_ROWS] for start in range(0, ROWS, BLOCK_ROWS)]
    assert set(read) == {tuple(block[[0, -1]]) for block in blocks}
    assert max(read.values()) == 1 if held == 32 else max(read.values()) <= 3


def test_a_batch_is_the_same_whatever_was_drawn_before(counted: Counted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gathering, "HELD_BLOCKS", 2)
    one, other = Shuffled(OWN, counted, 0), Shuffled(OWN, counted, 0)
    wanted = [drawn(one, step) for step in range(14)]
    for step in (13, 2, 7):
        np.testing.assert_array_equal(drawn(other, step), wanted[step])
    assert not np.array_equal(drawn(Shuffled(OWN, counted, 1), 2), wanted[2])


def test_a_batch_may_be_larger_than_an_epoch(counted: Counted):
    few = Shuffled(OWN[:24], counted, 0)
    assert set(Counter(drawn(few, 0, 240).tolist()).values()) == {10}
