"""Which block is published under which hash: a hash table in arrays, of 32 + 8 bytes for each block of the pool.

A dictionary would take four times as much, and the garbage collector would walk its million keys.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.block_hashes import HASH_BYTES

# What a block keeps of its parent's hash. A million blocks have two with one tag in common once in 10^7 times.
TAG_BYTES = 8
_END = -1
_ABSENT = -2


class PublishedBlocks:
    """Hashes are of HASH_BYTES; a tag is the first TAG_BYTES of one."""

    def __init__(self, num_blocks: int) -> None:
        buckets = 1 << max(0, num_blocks - 1).bit_length()
        self._mask = buckets - 1
        # The blocks of a bucket are chained: from its head on, each names the next.
        self._heads = array("i", [_END]) * buckets
        self._next = array("i", [_ABSENT]) * num_blocks
        self._hashes = bytearray(HASH_BYTES * num_blocks)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, block_id: int) -> bool:
        return self._next[block_id] != _ABSENT

    @property
    def tags(self) -> npt.NDArray[np.uint64]:
        """[num_blocks]: a view of what it holds now; of a block that is not published, what it had before, or 0."""
        return np.frombuffer(self._hashes, np.uint64).reshape(-1, HASH_BYTES // TAG_BYTES)[:, 0]

    def find(self, key: bytes) -> int | None:
        """The block of this hash, or one whose hash begins with this tag."""
        hashes, following, length = self._hashes, self._next, len(key)
        block_id = self._heads[hash(key[:TAG_BYTES]) & self._mask]
        while block_id >= 0:
            at = block_id * HASH_BYTES
            if hashes[at : at + length] == key:
                return block_id
            block_id = following[block_id]
        return None

    def hash_of(self, block_id: int) -> bytes:
        assert self._next[block_id] != _ABSENT, "only published blocks have a hash"
        return bytes(self._hashes[block_id * HASH_BYTES : (block_id + 1) * HASH_BYTES])

    def add(self, block_id: int, key: bytes) -> bool:
        """Publishes a block under a hash; False if another block is published under it."""
        return bool(self.add_all((block_id,), (key,)))

    def add_all(self, block_ids: Sequence[int], keys: Sequence[bytes]) -> list[int]:
        """Publishes each block under its hash, except where another block is published under it; the places of those
        that are published now."""
        hashes, following, heads, mask = self._hashes, self._next, self._heads, self._mask
        added = []
        for place, block_id in enumerate(block_ids):
            key = keys[place]
            assert len(key) == HASH_BYTES, "a shorter one would move all that follow it"
            assert following[block_id] == _ABSENT, "published once"
            bucket = hash(key[:TAG_BYTES]) & mask
            other = head = heads[bucket]
            while other >= 0:
                at = other * HASH_BYTES
                if hashes[at : at + HASH_BYTES] == key:
                    break
                other = following[other]
            else:
                following[block_id] = head
                heads[bucket] = block_id
                at = block_id * HASH_BYTES
                hashes[at : at + HASH_BYTES] = key
                added.append(place)
        self._length += len(added)
        return added

    def remove(self, block_id: int) -> None:
        at = block_id * HASH_BYTES
        bucket = hash(bytes(self._hashes[at : at + TAG_BYTES])) & self._mask
        following = self._next
        if self._heads[bucket] == block_id:
            self._heads[bucket] = following[block_id]
        else:
            before = self._heads[bucket]
            while following[before] != block_id:
                before = following[before]
            following[before] = following[block_id]
        following[block_id] = _ABSENT
        self._length -= 1
