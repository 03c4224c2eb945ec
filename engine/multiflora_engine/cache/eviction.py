"""In which order cached blocks that no sequence references are evicted. Knows ids and owners, not hashes or tokens.

Least recently used first, with one amendment, so that one tenant's flood cannot evict what all others have: a block
that was used in the last `protection` seconds and whose owner holds no more than an equal share of the evictable
blocks is spared, and the largest holder gives up its own least recently used block instead. All operations are O(1).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

_NONE = -1


@dataclass(slots=True, eq=False)
class _Line:
    """Blocks in the order in which they came; _Links has their neighbours."""

    oldest: int = _NONE
    newest: int = _NONE
    length: int = 0


class _Links:
    """The neighbours of each block in its line; it is in one of the lines at most. Eight bytes a block."""

    def __init__(self, num_blocks: int) -> None:
        self._older = array("i", [_NONE]) * num_blocks
        self._newer = array("i", [_NONE]) * num_blocks

    def append(self, line: _Line, block_id: int) -> None:
        self._older[block_id], self._newer[block_id] = line.newest, _NONE
        if line.newest == _NONE:
            line.oldest = block_id
        else:
            self._newer[line.newest] = block_id
        line.newest = block_id
        line.length += 1

    def remove(self, line: _Line, block_id: int) -> None:
        older, newer = self._older[block_id], self._newer[block_id]
        if older == _NONE:
            line.oldest = newer
        else:
            self._newer[older] = newer
        if newer == _NONE:
            line.newest = older
        else:
            self._older[newer] = older
        line.length -= 1


class EvictionQueue:
    """Evictable blocks of a pool of num_blocks, by time of release.

    An owner is a tenant, by its number: were it what a client may choose, one tenant with a thousand names would have a
    thousand shares.
    """

    def __init__(self, num_blocks: int, protection: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._protection = protection
        self._clock = clock
        self._began = clock()
        self._all = _Line()
        self._links = _Links(num_blocks)
        self._held: dict[int, _Line] = {}
        self._links_of_owner = _Links(num_blocks)
        # _NONE: the block is not evictable.
        self._owners = array("i", [_NONE]) * num_blocks
        # Seconds since _began: as many as 32 bits hold to the second for half a year.
        self._released = array("f", [0.0]) * num_blocks
        self._by_size: dict[int, dict[int, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return self._all.length

    def held(self, owner: int) -> int:
        """How many evictable blocks the owner has."""
        line = self._held.get(owner)
        return 0 if line is None else line.length

    def __contains__(self, block_id: int) -> bool:
        return self._owners[block_id] != _NONE

    def add(self, block_id: int, owner: int) -> None:
        """Makes the block evictable, as the most recently used one."""
        assert self._owners[block_id] == _NONE, "a block becomes evictable once"
        self._owners[block_id] = owner
        self._released[block_id] = self._clock() - self._began
        self._links.append(self._all, block_id)
        held = self._held.get(owner)
        if held is None:
            held = self._held[owner] = _Line()
        self._links_of_owner.append(held, block_id)
        self._resize(owner, held.length - 1, held.length)

    def remove(self, block_id: int) -> None:
        """The block is referenced again, or gone."""
        owner = self._owners[block_id]
        self._owners[block_id] = _NONE
        self._links.remove(self._all, block_id)
        held = self._held[owner]
        self._links_of_owner.remove(held, block_id)
        self._resize(owner, held.length + 1, held.length)
        if not held.length:
            del self._held[owner]

    def pop(self) -> int:
        """Removes and returns the block to evict; the queue must not be empty."""
        block_id = self._all.oldest
        within_share = self._held[self._owners[block_id]].length * len(self._held) <= self._all.length
        if within_share and self._clock() - self._began - self._released[block_id] < self._protection:
            largest_holder = next(iter(self._by_size[self._largest]))
            block_id = self._held[largest_holder].oldest
        self.remove(block_id)
        return block_id

    def pop_of(self, owner: int) -> int:
        """Removes and returns the owner's own least recently used block; it must have one."""
        block_id = self._held[owner].oldest
        self.remove(block_id)
        return block_id

    def _resize(self, owner: int, before: int, after: int) -> None:
        """Moves the owner to its new size's bucket. Sizes change by one, so the largest size does too."""
        if before:
            bucket = self._by_size[before]
            del bucket[owner]
            if not bucket:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[owner] = None
        if after > self._largest or self._largest not in self._by_size:
            self._largest = after
