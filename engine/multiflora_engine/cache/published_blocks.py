"""Which block is published under which hash: a hash table in arrays, of 32 + 8 bytes for each block of the pool.

A dictionary would take four times as much, and the garbage collector would walk its million keys.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.block_hashes import HASH_BYTES

# What a block keeps of its parent's hash. A million blocks have two with one tag in common once in 10^7 times.
TAG_BYTES = 8
_END = -1
_ABSENT = -2
_HASH = np.dtype((np.void, HASH_BYTES))
_WORDS = HASH_BYTES // TAG_BYTES
_TAG_BITS = TAG_BYTES * 8
_tag = struct.Struct("<Q").unpack_from
# Blocks that are added at once sooner than one by one.
_MANY = 32


class PublishedBlocks:
    """Hashes are of HASH_BYTES; a tag is the first TAG_BYTES of one."""

    def __init__(self, num_blocks: int) -> None:
        bits = max(1, (num_blocks - 1).bit_length())
        # A tag's bucket is in the highest bits of its product with a number that no client knows: with one that it
        # knew, it could make prompts that are all of one bucket.
        self._factor = random.SystemRandom().getrandbits(_TAG_BITS) | 1
        self._shift = _TAG_BITS - bits
        self._mask = (1 << bits) - 1
        # The blocks of a bucket are chained: from its head on, each names the next.
        self._heads = array("i", [_END]) * (1 << bits)
        self._next = array("i", [_ABSENT]) * num_blocks
        self._hashes = bytearray(HASH_BYTES * num_blocks)
        self._length = 0
        # The same memory, for many blocks at once.
        self._head_array = np.frombuffer(self._heads, np.int32)
        self._next_array = np.frombuffer(self._next, np.int32)
        self._hash_array = np.frombuffer(self._hashes, _HASH)

    def __len__(self) -> int:
        return self._length

    def __contains__(self, block_id: int) -> bool:
        return self._next[block_id] != _ABSENT

    @property
    def tags(self) -> npt.NDArray[np.uint64]:
        """[num_blocks]: a view of what it holds now; of a block that is not published, what it had before, or 0."""
        return np.frombuffer(self._hashes, np.uint64)[::_WORDS]

    def find(self, key: bytes) -> int | None:
        """The block of this hash, or one whose hash begins with this tag."""
        hashes, following, length = self._hashes, self._next, len(key)
        block_id: int = self._heads[_tag(key)[0] * self._factor >> self._shift & self._mask]
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
        if len(block_ids) >= _MANY and self._add_many(np.array(block_ids, np.int32), keys):
            return list(range(len(block_ids)))
        hashes, following, heads = self._hashes, self._next, self._heads
        added = []
        for place, block_id in enumerate(block_ids):
            key = keys[place]
            assert len(key) == HASH_BYTES, "a shorter one would move all that follow it"
            assert following[block_id] == _ABSENT, "published once"
            bucket = _tag(key)[0] * self._factor >> self._shift & self._mask
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

    def _add_many(self, block_ids: npt.NDArray[np.int32], keys: Sequence[bytes]) -> bool:
        """Publishes them all, if no published block has one of their tags and no two share a bucket; else none."""
        content = b"".join(keys)
        assert len(content) == len(block_ids) * HASH_BYTES, "a shorter one would move all that follow it"
        assert not np.count_nonzero(self._next_array[block_ids] != _ABSENT), "published once"
        tags = np.frombuffer(content, np.uint64)[::_WORDS]
        buckets = (tags * self._factor >> self._shift).astype(np.intp)
        heads = self._head_array[buckets]
        if self._have_one_of(tags, heads):
            return False
        self._head_array[buckets] = block_ids
        if np.count_nonzero(self._head_array[buckets] != block_ids):
            self._head_array[buckets] = heads
            return False
        self._next_array[block_ids] = heads
        self._hash_array[block_ids] = np.frombuffer(content, _HASH)
        self._length += len(block_ids)
        return True

    def _have_one_of(self, tags: npt.NDArray[np.uint64], heads: npt.NDArray[np.int32]) -> bool:
        """Whether one of the tags stands in the chain that begins with its head."""
        known, following = self.tags, self._next
        # Of an empty chain this reads the last block, which is no harm: what has one of the tags is added one by one.
        if np.count_nonzero(known[heads] == tags):
            return True
        behind = self._next_array[heads]
        for place in np.flatnonzero((behind >= 0) & (heads >= 0)).tolist():
            tag, block_id = int(tags[place]), int(behind[place])
            while block_id >= 0:
                if known[block_id] == tag:
                    return True
                block_id = following[block_id]
        return False

    def remove(self, block_id: int) -> None:
        at = block_id * HASH_BYTES
        bucket = _tag(self._hashes, at)[0] * self._factor >> self._shift & self._mask
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
