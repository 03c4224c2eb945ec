"""What the prefix cache holds, for people: contents, hits and ages of its blocks, and why a prompt missed.

Follows what is published, hit and given up; decides nothing and owns no blocks.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.numbering import Numbering
from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.core.sequence import Sequence

# One row for each block: the tag of its parent's hash (the block's before it, or the root's), its place (0: it is not
# published), when it was published and when it was hit for the last time (or published) in seconds since the index
# began, and the sequences that started on it.
ROW = np.dtype(
    [("parent", "<u8"), ("place", "<u4"), ("published_at", "<f4"), ("used_at", "<f4"), ("hits", "<u4")], align=False
)
_ROW = struct.Struct("<8sIffI")
_ROW_BYTES = _ROW.size
_PLACE = struct.Struct("<I")
_PLACE_AT = 8

# Digest of the adapter (None: the base model), and whose sequence published it (Sequence.cache_owner).
Place = tuple[str | None, str]


class CacheIndex:
    """One row for each block of the pool, and its tokens. clock: Unix seconds."""

    def __init__(self, num_blocks: int, block_size: int, clock: Callable[[], float] = time.time) -> None:
        self.block_size = block_size
        self._clock = clock
        # 32-bit floats hold seconds since then to a quarter for a month; Unix seconds they would hold to two minutes.
        self.began = clock()
        self._rows = bytearray(num_blocks * _ROW_BYTES)
        self._block_bytes = block_size * 4
        self._tokens = bytearray(num_blocks * self._block_bytes)
        self._places: Numbering[Place] = Numbering()
        # By the tokens of a prompt's first block: how many of the places' published blocks begin a prompt with them.
        self._beginnings: dict[bytes, dict[int, int]] = {}
        self._is_beginning = bytearray(num_blocks)
        rows = self.rows
        self._hits, self._used_at = rows["hits"], rows["used_at"]

    @property
    def rows(self) -> npt.NDArray[np.void]:
        """[num_blocks] of ROW: a view of what it holds now."""
        return np.frombuffer(self._rows, ROW)

    @property
    def tokens(self) -> npt.NDArray[np.uint32]:
        """[num_blocks, block_size]: a view of what it holds now."""
        return np.frombuffer(self._tokens, np.uint32).reshape(-1, self.block_size)

    def parent_tag(self, block_id: int) -> bytes:
        """Of the hash of the block before it, or of the root's."""
        return bytes(self._rows[block_id * _ROW_BYTES : block_id * _ROW_BYTES + _PLACE_AT])

    def place(self, block_id: int) -> Place:
        """Of a published block."""
        return self._places.name(_PLACE.unpack_from(self._rows, block_id * _ROW_BYTES + _PLACE_AT)[0])

    def published(self, sequence: Sequence, numbers: list[int]) -> None:
        """The blocks of these numbers in the sequence's table can be found from now on; at least one."""
        size, hashes, rows, tokens = self.block_size, sequence.block_hashes, self._rows, self._tokens
        table, row_bytes, block_bytes = sequence.block_table, _ROW_BYTES, self._block_bytes
        now = self._clock() - self.began
        place = self._places.add((sequence.adapter_digest, sequence.cache_owner), len(numbers))
        # What is equal in all rows is packed once: all but the first eight bytes.
        rest = _ROW.pack(b"", place, now, now, 0)[TAG_BYTES:]
        # Of the tokens one array, because a list's slices cost more than all else.
        first = numbers[0]
        content = array("I", sequence.token_ids[first * size : (numbers[-1] + 1) * size]).tobytes()
        for number in numbers:
            block_id = table[number]
            parent = hashes[number - 1] if number else sequence.root_hash
            at = block_id * row_bytes
            rows[at : at + row_bytes] = parent[:TAG_BYTES] + rest
            at, start = block_id * block_bytes, (number - first) * block_bytes
            tokens[at : at + block_bytes] = content[start : start + block_bytes]
        if not numbers[0]:
            self._begins_prompt(sequence.block_table[0], place)

    def on_evict(self, block_id: int, hash: bytes) -> None:
        """The block was evicted or dropped. hash: what it was found under."""
        at = block_id * _ROW_BYTES + _PLACE_AT
        (place,) = _PLACE.unpack_from(self._rows, at)
        if self._is_beginning[block_id]:
            self._forget_beginning(self._beginning(block_id), place)
            self._is_beginning[block_id] = False
        self._places.remove(place)
        _PLACE.pack_into(self._rows, at, 0)

    def hit(self, block_ids: array[int]) -> None:
        """A sequence started on these blocks, each of them once."""
        if block_ids:
            ids = np.frombuffer(block_ids, np.int32)
            self._hits[ids] += 1
            self._used_at[ids] = self._clock() - self.began

    def why_missed(self, sequence: Sequence, num_hits: int, is_cached: bool, was_evicted: bool) -> str:
        """Why the block after `num_hits` hits was not used: whole_prompt_asked (is_cached: it is there), evicted,
        diverged, other_adapter, other_tenant, other_salt or first_seen; "" when no whole block is left to find."""
        if num_hits >= (sequence.num_tokens - 1) // self.block_size or num_hits >= len(sequence.block_hashes):
            return ""
        if is_cached and sequence.reads_whole_prompt:
            return "whole_prompt_asked"
        if was_evicted:
            return "evicted"
        if num_hits:
            return "diverged"
        beginning = array("I", sequence.token_ids[: self.block_size]).tobytes()
        places = [self._places.name(number) for number in self._beginnings.get(beginning, ())]
        if not places:
            return "first_seen"
        owners = {owner for adapter, owner in places if adapter == sequence.adapter_digest}
        if not owners:
            return "other_adapter"
        return "other_salt" if sequence.cache_owner in owners else "other_tenant"

    def _beginning(self, block_id: int) -> bytes:
        size = self.block_size * 4
        return bytes(self._tokens[block_id * size : (block_id + 1) * size])

    def _begins_prompt(self, block_id: int, place: int) -> None:
        self._is_beginning[block_id] = True
        places = self._beginnings.setdefault(self._beginning(block_id), {})
        places[place] = places.get(place, 0) + 1

    def _forget_beginning(self, beginning: bytes, place: int) -> None:
        places = self._beginnings[beginning]
        places[place] -= 1
        if not places[place]:
            del places[place]
        if not places:
            del self._beginnings[beginning]
