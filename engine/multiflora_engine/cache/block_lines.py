"""Blocks in lines, each in the order in which they came, and leave from anywhere. Eight bytes a block; all is O(1)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

NONE = -1


@dataclass(slots=True, eq=False)
class Line:
    """BlockLinks has its blocks' neighbours. oldest, newest: NONE in an empty line."""

    oldest: int = NONE
    newest: int = NONE
    length: int = 0


class BlockLinks:
    """The neighbours of each block in its line; it is in one of the lines at most."""

    def __init__(self, num_blocks: int) -> None:
        self._older = array("i", [NONE]) * num_blocks
        self._newer = array("i", [NONE]) * num_blocks

    def append(self, line: Line, block_id: int) -> None:
        self._older[block_id], self._newer[block_id] = line.newest, NONE
        if line.newest == NONE:
            line.oldest = block_id
        else:
            self._newer[line.newest] = block_id
        line.newest = block_id
        line.length += 1

    def remove(self, line: Line, block_id: int) -> None:
        older, newer = self._older[block_id], self._newer[block_id]
        if older == NONE:
            line.oldest = newer
        else:
            self._newer[older] = newer
        if newer == NONE:
            line.newest = older
        else:
            self._older[newer] = older
        line.length -= 1
