"""What host memory and disk have in common: copies of blocks by hash. What fails is counted; neither raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from multiflora_engine.offload.tier_slots import KeptBlock, TierSlots

Pace = Callable[[], None]
"""Called between parts of a copy, so that it takes no more of the processor than it may."""

PART_BYTES = 256 << 10
"""Of a copy between two calls of the pace."""


@dataclass(slots=True)
class TierCounts:
    """Sums since the start, in blocks. lost: copies that were damaged, unreadable or gone when they were wanted."""

    stored: int = 0
    loaded: int = 0
    lost: int = 0
    failed_writes: int = 0


class Tier(Protocol):
    """Copies of one size. One thread calls it; `slots.find` is for all."""

    name: str
    slots: TierSlots
    block_bytes: int
    counts: TierCounts

    def write(self, block: KeptBlock, content: memoryview, limit: int | None, pace: Pace) -> bool:
        """Keeps a copy of the block. False: it could not. limit: of the owner's copies."""
        ...

    def read(self, hash: bytes, into: memoryview, pace: Pace) -> bool:
        """The block's content. False: it is gone, unreadable or not what was written; then it is found no more."""
        ...

    def use(self, hashes: Iterable[bytes], counts: bool) -> None:
        """See TierSlots."""
        ...

    def discard(self, hash: bytes) -> None: ...

    def close(self) -> None: ...
