"""What was evicted last: the hashes, with the uses and the time that each block had."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

_REMEMBERED = 65_536
_USES_BITS = 8


@dataclass(frozen=True, slots=True)
class Evicted:
    """uses: see worth.py. released: the eviction queue's tick when the block was used for the last time."""

    uses: int
    released: int


class EvictedBlocks:
    """The last 65,536. A block that is published again is none of them any more."""

    def __init__(self) -> None:
        # The two numbers in one: an object for each would double what an entry takes.
        self._entries: OrderedDict[bytes, int] = OrderedDict()

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._entries

    def add(self, hash: bytes, uses: int, released: int) -> None:
        self._entries[hash] = released << _USES_BITS | uses
        if len(self._entries) > _REMEMBERED:
            self._entries.popitem(last=False)

    def find(self, hash: bytes) -> Evicted | None:
        entry = self._entries.get(hash)
        return None if entry is None else Evicted(entry & (1 << _USES_BITS) - 1, entry >> _USES_BITS)

    def discard(self, hashes: Iterable[bytes]) -> None:
        if self._entries:
            for hash in hashes:
                self._entries.pop(hash, None)
