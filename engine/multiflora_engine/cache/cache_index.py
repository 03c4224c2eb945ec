"""What the prefix cache holds, for people: contents, hits and ages of its blocks, and why a prompt missed.

Follows what is published, hit and given up; decides nothing and owns no blocks.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.changes.change_log import ChangeLog
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
# Blocks that are written at once sooner than one by one.
_MANY = 8
_ROW_BYTES = _ROW.size
_PLACE = struct.Struct("<I")
_PLACE_AT = 8


class Place(NamedTuple):
    """What a published block is of."""

    kv: str | None  # what its KV is known by (Sequence.kv_digest)
    owner: str  # of the sequence that published it (Sequence.cache_owner)
    adapter: str | None  # digest of that sequence's adapter, of several that have this KV; None: it is the base's


class CacheIndex:
    """One row for each block of the pool, and its tokens. clock: Unix seconds.

    changes: of what is published and given up, while it is on.
    """

    def __init__(self, num_blocks: int, block_size: int, clock: Callable[[], float] = time.time) -> None:
        self.block_size = block_size
        self.changes = ChangeLog()
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
        # [num_blocks] of ROW, and [num_blocks, block_size]: views of what it holds now.
        self.rows: npt.NDArray[np.void] = np.frombuffer(self._rows, ROW)
        self.tokens: npt.NDArray[np.uint32] = np.frombuffer(self._tokens, np.uint32).reshape(-1, block_size)
        self._hits, self._used_at = self.rows["hits"], self.rows["used_at"]
        # The same as cells: numpy copies a row field by field, and a cell at once.
        self._row_cells = np.frombuffer(self._rows, (np.void, _ROW_BYTES))
        self._token_cells = np.frombuffer(self._tokens, (np.void, self._block_bytes))

    def parent_tag(self, block_id: int) -> bytes:
        """Of the hash of the block before it, or of the root's."""
        return bytes(self._rows[block_id * _ROW_BYTES : block_id * _ROW_BYTES + _PLACE_AT])

    def place(self, block_id: int) -> Place:
        """Of a published block."""
        return self._places.name(_PLACE.unpack_from(self._rows, block_id * _ROW_BYTES + _PLACE_AT)[0])

    def begins_prompt(self, block_id: int) -> bool:
        """Of a published block: there is none before it."""
        return bool(self._is_beginning[block_id])

    def published(self, sequence: Sequence, numbers: list[int], table: array[int]) -> None:
        """The blocks of these numbers in the table, which holds what the sequence's tokens say, can be found from now
        on; at least one."""
        kv = self._kv_of(sequence, numbers[0])
        same = sum(self._kv_of(sequence, number) == kv for number in numbers) if sequence.activation else len(numbers)
        if same < len(numbers):
            # The base's blocks of an activated LoRA's prompt, then its own.
            self.published(sequence, numbers[:same], table)
            self.published(sequence, numbers[same:], table)
            return
        now = self._clock() - self.began
        adapter = None if kv is None else sequence.adapter_digest
        place = self._places.add(Place(kv, sequence.cache_owner, adapter), len(numbers))
        # All but the tag of the parent's hash is equal in all rows.
        rest = _ROW.pack(b"", place, now, now, 0)[TAG_BYTES:]
        first, end = numbers[0], numbers[-1] + 1
        parents = sequence.block_hashes[max(0, first - 1) : end - 1]
        if not first:
            parents.insert(0, sequence.root_hash)
        rows = b"".join([parent[:TAG_BYTES] + rest for parent in parents])
        # Of the tokens one array, because a list's slices cost more than all else.
        content = array("I", sequence.token_ids[first * self.block_size : end * self.block_size])
        if end - first == len(numbers) >= _MANY:
            ids = np.frombuffer(table, np.int32)[first:end]
            self._row_cells[ids] = np.frombuffer(rows, self._row_cells.dtype)
            self._token_cells[ids] = np.frombuffer(content, self._token_cells.dtype)
        else:
            self._write_each(table, numbers, rows, content.tobytes())
        if not first:
            self._begins_prompt(table[0], place)
        if self.changes.is_on:
            self.changes.stored(sequence, numbers, adapter)

    def _kv_of(self, sequence: Sequence, number: int) -> str | None:
        return sequence.kv_at((number + 1) * self.block_size - 1)

    def _write_each(self, table: array[int], numbers: list[int], rows: bytes, content: bytes) -> None:
        """rows, content: of all blocks from the first of the numbers to the last."""
        block_bytes = self._block_bytes
        for number in numbers:
            block_id, place = table[number], number - numbers[0]
            at, start = block_id * _ROW_BYTES, place * _ROW_BYTES
            self._rows[at : at + _ROW_BYTES] = rows[start : start + _ROW_BYTES]
            at, start = block_id * block_bytes, place * block_bytes
            self._tokens[at : at + block_bytes] = content[start : start + block_bytes]

    def on_evict(self, block_id: int, hash: bytes) -> None:
        """The block was evicted or dropped. hash: what it was found under."""
        at = block_id * _ROW_BYTES + _PLACE_AT
        (place,) = _PLACE.unpack_from(self._rows, at)
        if self._is_beginning[block_id]:
            self._forget_beginning(self._beginning(block_id), place)
            self._is_beginning[block_id] = False
        self._places.remove(place)
        _PLACE.pack_into(self._rows, at, 0)
        if self.changes.is_on:
            self.changes.removed(hash)

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
        owners = {place.owner for place in places if place.kv == self._kv_of(sequence, 0)}
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
