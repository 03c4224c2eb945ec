"""Which replicas have which KV blocks, as they told: a bit of each replica by a block's hash. Knows no requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.protocol.cache_change import CacheChange

KEY_BYTES = 8
"""Of a hash: among millions of blocks two that are equal in these would cost one wrong choice, and no wrong answer."""


class BlockIndex:
    def __init__(self) -> None:
        self._holders: dict[bytes, int] = {}
        self._taken = 0  # bits

    def __len__(self) -> int:
        return len(self._holders)

    def follower(self) -> ReplicaBlocks:
        """A CacheFollower of one more replica, with the lowest bit that no other has."""
        bit = ~self._taken & (self._taken + 1)
        self._taken |= bit
        return ReplicaBlocks(self._holders, bit)

    def release(self, bit: int) -> None:
        """Another replica may have it: this one has no blocks any more."""
        self._taken &= ~bit

    def holders(self, key: bytes) -> int:
        """A bit for each replica that has the block; key: the first KEY_BYTES of its hash."""
        return self._holders.get(key, 0)


class ReplicaBlocks:
    """One replica's part of the index."""

    def __init__(self, holders: dict[bytes, int], bit: int) -> None:
        self._holders = holders
        self.bit = bit
        # While it catches up: what was removed since. What is told to be held may have been read before.
        self._removed: set[bytes] | None = None

    def changed(self, changes: list[CacheChange]) -> None:
        for change in changes:
            for key in _keys_of(change.hashes):
                if change.is_removal:
                    self._remove(key)
                    if self._removed is not None:
                        self._removed.add(key)
                else:
                    self._add(key)
                    if self._removed is not None:
                        self._removed.discard(key)

    @contextmanager
    def catching_up(self) -> Iterator[None]:
        """While `held` tells what was cached before it was followed."""
        self._removed = set()
        try:
            yield
        finally:
            self._removed = None

    def held(self, changes: list[CacheChange]) -> None:
        for change in changes:
            for key in _keys_of(change.hashes):
                if self._removed is not None and key not in self._removed:
                    self._add(key)

    def cleared(self) -> None:
        for key in [key for key, bits in self._holders.items() if bits & self.bit]:
            self._remove(key)

    def _add(self, key: bytes) -> None:
        self._holders[key] = self._holders.get(key, 0) | self.bit

    def _remove(self, key: bytes) -> None:
        left = self._holders.get(key, 0) & ~self.bit
        if left:
            self._holders[key] = left
        else:
            self._holders.pop(key, None)


def keys_of(hashes: Sequence[bytes]) -> list[bytes]:
    return [hash[:KEY_BYTES] for hash in hashes]


def _keys_of(hashes: bytes) -> Iterator[bytes]:
    return (hashes[start : start + KEY_BYTES] for start in range(0, len(hashes), HASH_BYTES))
