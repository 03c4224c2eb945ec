"""Copies of KV blocks in the host's memory: larger than the device's, gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np

from multiflora_engine.offload.tier import PART_BYTES, Pace, TierCounts
from multiflora_engine.offload.tier_slots import KeptBlock, TierSlots


class HostTier:
    """num_slots copies of block_bytes each; memory is taken as it is first written. clock: Unix seconds."""

    name = "host"

    def __init__(self, block_bytes: int, num_slots: int, clock: Callable[[], float] = time.time) -> None:
        self.block_bytes = block_bytes
        self.slots = TierSlots(num_slots)
        self.counts = TierCounts()
        self._clock = clock
        self._memory = np.empty((num_slots, block_bytes), np.uint8)

    def write(self, block: KeptBlock, content: memoryview, limit: int | None, pace: Pace) -> bool:
        slot = self.slots.reserve(block.owner, limit)
        if slot is None:
            return False
        _copy(content, memoryview(self._memory[slot]), pace)
        block.used_at = int(self._clock())
        self.slots.fill(slot, block)
        self.counts.stored += 1
        return True

    def read(self, hash: bytes, into: memoryview, pace: Pace) -> bool:
        slot = self.slots.find(hash)
        if slot is None:
            self.counts.lost += 1
            return False
        _copy(memoryview(self._memory[slot]), into, pace)
        self.counts.loaded += 1
        return True

    def use(self, hashes: Iterable[bytes], counts: bool) -> None:
        self.slots.use(hashes, counts, int(self._clock()))

    def discard(self, hash: bytes) -> None:
        self.slots.discard(hash)

    def close(self) -> None:
        pass


def _copy(source: memoryview, target: memoryview, pace: Pace) -> None:
    # Through numpy, which lets other threads go on meanwhile.
    content, memory = np.frombuffer(source, np.uint8), np.frombuffer(target, np.uint8)
    for start in range(0, len(memory), PART_BYTES):
        memory[start : start + PART_BYTES] = content[start : start + PART_BYTES]
        pace()
