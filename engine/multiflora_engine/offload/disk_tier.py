"""Copies of KV blocks in one file of equal slots: what survives the process. Each copy is read with its checksum.

Nothing is synchronised to the medium: what a crash of the machine leaves half-written is recognised when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from multiflora_engine.offload.slot_index import SlotIndex, write_all
from multiflora_engine.offload.tier import PART_BYTES, Pace, TierCounts
from multiflora_engine.offload.tier_slots import KeptBlock, TierSlots

_log = logging.getLogger(__name__)

CONTENT_NAME = "blocks"
INDEX_NAME = "index"
_PRIVATE = 0o600
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Seconds for which no copy is written after a write failed.
_PAUSE = 10.0
# Seconds for which a full disk is asked for no more room.
_FULL_FOR = 60.0


class DiskTier:
    """num_slots copies of block_bytes each at most, in `folder`, which no other process may use. Raises OSError.

    clock: Unix seconds.
    """

    name = "disk"

    def __init__(self, folder: Path, block_bytes: int, num_slots: int, clock: Callable[[], float] = time.time) -> None:
        self.block_bytes = block_bytes
        self.counts = TierCounts()
        self._clock = clock
        self._paused_until = self._full_until = 0.0
        # Copies at which the disk was last full; None: it never was.
        self._full_at: int | None = None
        self._content = _opened(folder / CONTENT_NAME, num_slots * block_bytes)
        self._index_file = _opened(folder / INDEX_NAME, None)
        self._index = SlotIndex(self._index_file)
        self.slots = TierSlots(num_slots, self._clear)
        self.slots.restore(self._index.read_all())

    def write(self, block: KeptBlock, content: memoryview, limit: int | None, pace: Pace) -> bool:
        if self._is_paused():
            return False
        if self._clock() >= self._full_until:
            self.slots.grow_again()
        while (slot := self.slots.reserve(block.owner, limit)) is not None:
            try:
                self._write(slot, block, content, pace)
            except OSError as error:
                self.counts.failed_writes += 1
                if error.errno in _NO_ROOM and self.slots.is_first_use(slot):
                    self._stop_growing(slot)
                    continue
                self._pause(error)
                self.slots.give_back(slot)
                return False
            self.slots.fill(slot, block)
            self.counts.stored += 1
            return True
        return False

    def read(self, hash: bytes, into: memoryview, pace: Pace) -> bool:
        slot = self.slots.find(hash)
        if slot is not None:
            try:
                if self._read(slot, hash, into, pace):
                    self.counts.loaded += 1
                    return True
                _log.warning("A copy of a KV block on disk is damaged: it is computed again.")
            except OSError as error:
                _log.warning("A copy of a KV block cannot be read from disk (%s): it is computed again.", error)
            self.slots.discard(hash)
        self.counts.lost += 1
        return False

    def use(self, hashes: Iterable[bytes], counts: bool) -> None:
        changed = self.slots.use(hashes, counts, int(self._clock()))
        if self._is_paused():
            return
        try:
            for slot in changed:
                self._index.write(slot, self.slots.block(slot))
        except OSError as error:
            self._pause(error)

    def discard(self, hash: bytes) -> None:
        self.slots.discard(hash)

    def close(self) -> None:
        os.close(self._content)
        os.close(self._index_file)

    def _write(self, slot: int, block: KeptBlock, content: memoryview, pace: Pace) -> None:
        checksum = _checksum_of(block)
        for start in range(0, self.block_bytes, PART_BYTES):
            part = content[start : start + PART_BYTES]
            checksum.update(part)
            write_all(self._content, part, slot * self.block_bytes + start)
            pace()
        block.checksum, block.used_at = checksum.digest(), int(self._clock())
        self._index.write(slot, block)

    def _read(self, slot: int, hash: bytes, into: memoryview, pace: Pace) -> bool:
        """Whether it is what was written for this hash."""
        block = self._index.read(slot)
        if block is None or block.hash != hash:
            return False
        checksum = _checksum_of(block)
        for start in range(0, self.block_bytes, PART_BYTES):
            part = into[start : start + PART_BYTES]
            if os.preadv(self._content, [part], slot * self.block_bytes + start) != len(part):
                return False
            checksum.update(part)
            pace()
        return checksum.digest() == block.checksum

    def _clear(self, slot: int) -> None:
        """The slot's copy is given up: no later process may take what follows for it."""
        try:
            # Also during a pause: what an operator drops is to be gone, if there is any way.
            self._index.clear(slot)
        except OSError as error:
            self._pause(error)

    def _stop_growing(self, num_copies: int) -> None:
        """The disk is full with so many: old ones make room for new ones until it is tried again."""
        self.slots.stop_growing()
        self._full_until = self._clock() + _FULL_FOR
        # A disk that stays full is told of once.
        if num_copies != self._full_at:
            _log.warning("The disk is full at %d copies of KV blocks: old ones make room.", num_copies)
        self._full_at = num_copies

    def _is_paused(self) -> bool:
        return self._clock() < self._paused_until

    def _pause(self, error: OSError) -> None:
        if self._is_paused():
            return
        _log.warning("Copies of KV blocks cannot be written to disk (%s): next try in %d seconds.", error, _PAUSE)
        self._paused_until = self._clock() + _PAUSE


def _opened(path: Path, longest: int | None) -> int:
    """A file of the server's user alone, no longer than it may be. A link is not followed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
    if longest is not None and os.fstat(fd).st_size > longest:
        os.ftruncate(fd, longest)
    return fd


def _checksum_of(block: KeptBlock) -> hashlib._Hash:
    """Of which content, too: a copy of another block is not mistaken for this one's."""
    return hashlib.sha1(block.hash, usedforsecurity=False)
