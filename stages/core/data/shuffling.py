"""Batches of rows in an order shuffled anew each epoch, read from stores block by block.

An epoch goes through all rows once. Blocks of BLOCK_ROWS rows come in a random order; HELD_BLOCKS of them are held in
memory at a time, and their rows come in a random order too. Up to HELD_BLOCKS blocks in all, that is a shuffle of all
rows. The order is keyed on the seed, a name and the epoch, and knows nothing of the stores' shards.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from ..run.seeds import keyed_rng
from .gathering import BLOCK_ROWS, Vectors

HELD_BLOCKS = 16
"""Blocks in memory at a time: 8 192 rows."""
Window = tuple[Int[np.ndarray, " block"], Int[np.ndarray, " _"]]


class Shuffled:
    """Rows of one or more kinds of vectors (gradients, activations), in batches."""

    def __init__(self, rows: Integer[np.ndarray, " n"], kinds: Sequence[Vectors], seed: int) -> None:
        """`rows`: row numbers of the vectors; everything else here counts from 0 to len(rows)."""
        self.rows, self.kinds, self.seed = rows, kinds, seed
        self.blocks = -(-len(rows) // BLOCK_ROWS)
        self.epoch: tuple[tuple[str, int], list[Window]] | None = None
        self.slot = np.full(self.blocks, -1)
        held = min(self.blocks, HELD_BLOCKS) * BLOCK_ROWS
        self.held = [np.empty((held, *vectors.shape[1:]), np.float32) for vectors in self.kinds]

    def batch(self, name: str, step: int, size: int) -> Iterator[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]:
        """Batch `step` of the order `name`, in parts: the rows, and the rows that are in memory with them.

        A batch has more than one part where an epoch or the blocks held end within it. The same for the same arguments,
        whatever was drawn before. `vectors` is to be asked for a part's rows before the next part is.
        """
        position, end = step * size, (step + 1) * size
        while position < end:
            epoch, start = divmod(position, len(self.rows))
            for blocks, rows in self.windows(name, epoch):
                if start < len(rows):
                    self.hold(blocks)
                    taken = rows[start : start + end - position]
                    yield taken, rows
                    position += len(taken)
                    break
                start -= len(rows)

    def vectors(self, kind: int, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n layer d_model"]:
        """The vectors of a kind of rows in memory."""
        return self.held[kind][self.slot[rows // BLOCK_ROWS] * BLOCK_ROWS + rows % BLOCK_ROWS]

    def windows(self, name: str, epoch: int) -> list[Window]:
        """The epoch's order: blocks that are held together, and their rows."""
        if self.epoch is None or self.epoch[0] != (name, epoch):
            rng = keyed_rng(self.seed, "order", name, epoch)
            order, windows = rng.permutation(self.blocks), []
            for start in range(0, self.blocks, HELD_BLOCKS):
                blocks = np.sort(order[start : start + HELD_BLOCKS])
                rows = (blocks[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
                windows.append((blocks, rng.permutation(rows[rows < len(self.rows)]).astype(np.int32)))
            self.epoch = (name, epoch), windows
        return self.epoch[1]

    def hold(self, blocks: Int[np.ndarray, " block"]) -> None:
        """Reads those of the blocks that aren't in memory, in place of others."""
        taken = np.isin(np.arange(self.blocks), blocks) & (self.slot >= 0)
        free = iter(np.setdiff1d(np.arange(min(self.blocks, HELD_BLOCKS)), self.slot[taken]))
        for block in blocks[self.slot[blocks] < 0]:
            slot = next(free)
            self.slot[self.slot == slot] = -1
            rows = self.rows[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            for held, vectors in zip(self.held, self.kinds, strict=True):
                held[slot * BLOCK_ROWS :][: len(rows)] = vectors[rows]
            self.slot[block] = slot
