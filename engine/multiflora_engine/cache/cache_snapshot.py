"""The rows of all blocks, copied a slice at a time, so that no step waits for all of them.

Each row is of one moment; two rows may be of different steps. What was published twice meanwhile is there once.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import ROW, CacheIndex


class CacheSnapshot:
    """Made on a thread, filled by `copy_slice` between steps; complete, any thread may read it.

    tags, references: [num_blocks], rows: [num_blocks] of ROW; of a block that is not published the row's place is 0.
    """

    def __init__(self, pool: BlockPool, index: CacheIndex) -> None:
        self.tags: npt.NDArray[np.uint64] = np.empty(pool.num_blocks, np.uint64)
        self.rows: npt.NDArray[np.void] = np.empty(pool.num_blocks, ROW)
        self.references: npt.NDArray[np.int32] = np.empty(pool.num_blocks, np.int32)
        self.num_copied = 0
        self._columns: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [
            (self.tags, pool.tags),
            (_as_words(self.rows), _as_words(index.rows)),
            (self.references, pool.reference_counts),
        ]
        # Its pages are got here, where no step waits for them: a large one takes the kernel milliseconds.
        for copy, _ in self._columns:
            copy[...] = 0

    def copy_slice(self, num_rows: int) -> bool:
        """Copies the next num_rows blocks, 36 bytes each; False when that was the last of them."""
        part = slice(self.num_copied, self.num_copied + num_rows)
        for copy, live in self._columns:
            copy[part] = live[part]
        self.num_copied = min(part.stop, len(self.tags))
        return self.num_copied < len(self.tags)


def _as_words(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """[N, 3]: numpy copies rows field by field, which takes six times as long."""
    return rows.view(np.uint64).reshape(len(rows), -1)


def free_in_turn(holder: object) -> None:
    """Takes the holder's attributes from it, one after the other, and lets other threads go on in between: arrays are
    given back with the interpreter's lock held, and unmapping all of a large cache's takes milliseconds."""
    for name in reversed([*vars(holder)]):  # views before what they show
        delattr(holder, name)
        time.sleep(0)
