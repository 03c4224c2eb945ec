"""In which order cached blocks that no sequence references are evicted. Knows ids and owners, not hashes or tokens.

Least recently used first, with one amendment, so that one tenant's flood cannot evict what all others have: a block
that was used in the last `protection` seconds and whose owner holds no more than an equal share of the evictable
blocks is spared, and the largest holder gives up its own least recently used block instead. All operations are O(1).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class EvictionQueue:
    """Evictable blocks by time of release. An owner is a tenant: were it what a client may choose, one tenant with a
    thousand names would have a thousand shares."""

    def __init__(self, protection: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._protection = protection
        self._clock = clock
        self._blocks: OrderedDict[int, tuple[str, float]] = OrderedDict()
        self._held: dict[str, OrderedDict[int, None]] = {}
        self._by_size: dict[int, dict[str, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def held(self, owner: str) -> int:
        """How many evictable blocks the owner has."""
        return len(self._held.get(owner, ()))

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._blocks

    def add(self, block_id: int, owner: str) -> None:
        """Makes the block evictable, as the most recently used one."""
        assert block_id not in self._blocks, "a block becomes evictable once"
        self._blocks[block_id] = (owner, self._clock())
        held = self._held.setdefault(owner, OrderedDict())
        held[block_id] = None
        self._resize(owner, len(held) - 1, len(held))

    def remove(self, block_id: int) -> None:
        """The block is referenced again, or gone."""
        owner, _ = self._blocks.pop(block_id)
        held = self._held[owner]
        del held[block_id]
        self._resize(owner, len(held) + 1, len(held))
        if not held:
            del self._held[owner]

    def pop(self) -> int:
        """Removes and returns the block to evict; the queue must not be empty."""
        block_id = next(iter(self._blocks))
        owner, released = self._blocks[block_id]
        within_share = len(self._held[owner]) * len(self._held) <= len(self._blocks)
        if within_share and self._clock() - released < self._protection:
            largest_holder = next(iter(self._by_size[self._largest]))
            block_id = next(iter(self._held[largest_holder]))
        self.remove(block_id)
        return block_id

    def pop_of(self, owner: str) -> int:
        """Removes and returns the owner's own least recently used block; it must have one."""
        block_id = next(iter(self._held[owner]))
        self.remove(block_id)
        return block_id

    def _resize(self, owner: str, before: int, after: int) -> None:
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
