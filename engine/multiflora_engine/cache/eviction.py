"""In which order cached blocks that no sequence references are evicted. Knows ids, owners, uses; no hashes, no tokens.

Blocks stand in lines by their uses (worth.py), in each by time of release. Those that no client has waited for go
first; then the one whose idle time, weighed by how seldom blocks of so many uses are used again, is longest. So prompts
that come once evict each other, and not what is used again.

With one amendment, so that one tenant's flood cannot evict what all others have: a block that was released in the last
`protection` seconds and whose owner holds no more than an equal share of the evictable blocks is spared, and the
largest holder gives up its own worst block instead. All operations are O(1).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable

import numpy as np

from multiflora_engine.cache.block_lines import NONE, BlockLinks, Line
from multiflora_engine.cache.evicted_blocks import Evicted
from multiflora_engine.cache.recency import Recency
from multiflora_engine.cache.worth import COLD, MOST_USES, NEW, NUM_USES, Worth

# Of the evictable blocks, what stays for new ones to be used again in, at least.
_ROOM_FOR_NEW = 0.05
# By each sequence that starts, the largest number of new blocks that one needed lately shrinks to this part.
_FADING = 0.99
_TICKS = 0xFFFFFFFF
# Uses of a block after one more: what was computed in the background counts as used by its publisher.
_ONE_MORE = np.array([min(max(uses, NEW) + 1, MOST_USES) for uses in range(NUM_USES)], np.uint8)


class EvictionQueue:
    """Evictable blocks of a pool of num_blocks, and the uses of all blocks.

    An owner is a tenant, by its number: were it what a client may choose, one tenant with a thousand names would have a
    thousand shares.
    """

    def __init__(self, num_blocks: int, protection: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._recency = Recency(protection, clock)
        self._worth = Worth(num_blocks)
        # Of an evictable block it also says in which line it is, so it changes only while the block is in none.
        self._uses = bytearray([NEW]) * num_blocks
        self._uses_array = np.frombuffer(self._uses, np.uint8)
        self._lines = _new_lines()
        self._links = BlockLinks(num_blocks)
        self._held: dict[int, list[Line]] = {}
        self._links_of_owner = BlockLinks(num_blocks)
        # NONE: the block is not evictable.
        self._owners = array("i", [NONE]) * num_blocks
        # Counts releases: blocks age as others are used, not while nothing happens.
        self._tick = 0
        self._released = array("I", [0]) * num_blocks
        self._length = 0
        # What the new blocks of one sequence may take.
        self._room = 0.0
        self._sizes: dict[int, int] = {}
        self._by_size: dict[int, dict[int, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, block_id: int) -> bool:
        return self._owners[block_id] != NONE

    @property
    def num_cold(self) -> int:
        """Evictable blocks that no client has waited for."""
        return self._lines[COLD].length

    def held(self, owner: int) -> int:
        """How many evictable blocks the owner has."""
        return self._sizes.get(owner, 0)

    def uses(self, block_id: int) -> int:
        return self._uses[block_id]

    def released(self, block_id: int) -> int:
        """The tick at which it became evictable for the last time."""
        return self._released[block_id]

    def begin(self, block_ids: Iterable[int], uses: int) -> None:
        """What these blocks, which are not evictable, hold had so many uses up to now."""
        all_uses = self._uses
        for block_id in block_ids:
            all_uses[block_id] = uses

    def note_new(self, num_new: int) -> None:
        """A sequence started that needs so many blocks beside its hits."""
        self._room = max(float(num_new), self._room * _FADING)

    def use(self, block_ids: array[int]) -> None:
        """A sequence shares these blocks from now on, each of them once, none of them evictable."""
        if block_ids:
            ids = np.frombuffer(block_ids, np.int32)
            self._uses_array[ids] = _ONE_MORE[self._uses_array[ids]]

    def uses_after(self, evicted: Evicted) -> int:
        """Those of blocks that are computed again: as many as the first of them had and one more, if they may be kept
        for it.

        They may while there is room for new ones beside them, or if they came back sooner than the oldest of those that
        are kept was used. Else a loop that is larger than the pool would always evict what it needs next. (LIRS, Jiang
        and Zhang, SIGMETRICS 2002.)
        """
        kept = [line for line in self._lines[NEW + 1 :] if line.length]
        room = max(self._room, self._length * _ROOM_FOR_NEW)
        is_full = kept and sum(line.length for line in kept) + room > self._length
        if is_full and self._age(evicted.released) >= max(self._age(self._released[line.oldest]) for line in kept):
            return NEW
        return min(max(evicted.uses, NEW) + 1, MOST_USES)

    def add(self, block_id: int, owner: int) -> None:
        """Makes the block evictable, as the most recently used one."""
        assert self._owners[block_id] == NONE, "a block becomes evictable once"
        self._tick = self._tick + 1 & _TICKS
        self._recency.note(self._tick)
        self._released[block_id] = self._tick
        self._owners[block_id] = owner
        uses = self._uses[block_id]
        self._links.append(self._lines[uses], block_id)
        held = self._held.get(owner)
        if held is None:
            held = self._held[owner] = _new_lines()
        self._links_of_owner.append(held[uses], block_id)
        self._length += 1
        self._resize(owner, 1)

    def remove(self, block_id: int) -> None:
        """The block is gone."""
        owner, uses = self._owners[block_id], self._uses[block_id]
        self._owners[block_id] = NONE
        self._links.remove(self._lines[uses], block_id)
        self._links_of_owner.remove(self._held[owner][uses], block_id)
        self._length -= 1
        self._resize(owner, -1)

    def take(self, block_id: int) -> None:
        """The block is referenced again."""
        self.remove(block_id)
        self._worth.note_hit(self._uses[block_id])

    def pop(self) -> int:
        """Removes and returns the block to evict; the queue must not be empty."""
        block_id = self._worst(self._lines)
        owner = self._owners[block_id]
        is_within_share = self._sizes[owner] * len(self._sizes) <= self._length
        if self._uses[block_id] != COLD and is_within_share and self._is_recent(block_id):
            owner = next(iter(self._by_size[self._largest]))
            block_id = self._worst(self._held[owner])
        return self._evict(block_id)

    def pop_of(self, owner: int) -> int:
        """Removes and returns the owner's own worst block; it must have one."""
        return self._evict(self._worst(self._held[owner]))

    def _evict(self, block_id: int) -> int:
        self.remove(block_id)
        self._worth.note_eviction(self._uses[block_id])
        return block_id

    def _worst(self, lines: list[Line]) -> int:
        """The cold line's oldest block, or the oldest of the line in which that waits most impatiently."""
        worst, most = lines[COLD].oldest, -1.0
        if worst != NONE:
            return worst
        impatience = self._worth.impatience
        for uses in range(NEW, NUM_USES):
            oldest = lines[uses].oldest
            if oldest != NONE:
                weighed = (self._age(self._released[oldest]) + 1) * impatience[uses]
                if weighed > most:
                    worst, most = oldest, weighed
        return worst

    def _age(self, tick: int) -> int:
        """Releases since then."""
        return self._tick - tick & _TICKS

    def _is_recent(self, block_id: int) -> bool:
        return self._age(self._released[block_id]) < self._age(self._recency.newest_old())

    def _resize(self, owner: int, change: int) -> None:
        """Moves the owner to its new size's bucket. Sizes change by one, so the largest size does too."""
        before = self._sizes.get(owner, 0)
        after = before + change
        if before:
            bucket = self._by_size[before]
            del bucket[owner]
            if not bucket:
                del self._by_size[before]
        if after:
            self._sizes[owner] = after
            self._by_size.setdefault(after, {})[owner] = None
        else:
            del self._sizes[owner], self._held[owner]
        if after > self._largest or self._largest not in self._by_size:
            self._largest = after


def _new_lines() -> list[Line]:
    return [Line() for _ in range(NUM_USES)]
