"""Which blocks became findable and which ceased to be, in order, since the step loop asked last.

Off until a gateway follows the cache: then a batch of published blocks costs one entry, otherwise one test.
"""

from __future__ import annotations

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.protocol.cache_change import CacheChange


class ChangeLog:
    """is_on: what is told is kept until `take`. The step loop takes it after each step, which bounds it."""

    def __init__(self) -> None:
        self.is_on = False
        self._taken = 0
        self._changes: list[CacheChange] = []
        # Removed since the last change, which will be one.
        self._removed = bytearray()

    @property
    def count(self) -> int:
        """Changes since it is on, in all."""
        self._close_removal()
        return self._taken + len(self._changes)

    def turn(self, on: bool) -> None:
        """It counts from 0 on again."""
        self.is_on = on
        self._taken = 0
        self._changes, self._removed = [], bytearray()

    def stored(self, sequence: Sequence, numbers: list[int], adapter: str | None) -> None:
        """The blocks of these numbers in the sequence's table can be found from now on; at least one, in order."""
        self._close_removal()
        hashes, owner, first = sequence.block_hashes, sequence.cache_owner, 0
        for place in range(1, len(numbers) + 1):
            # What was published before by another sequence divides them: each change is a run.
            if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
                start, stop = numbers[first], numbers[place - 1] + 1
                parent = hashes[start - 1] if start else b""
                self._changes.append(CacheChange(b"".join(hashes[start:stop]), False, parent, adapter, owner))
                first = place

    def removed(self, hash: bytes) -> None:
        """The block is found no more."""
        self._removed += hash

    def take(self) -> list[CacheChange]:
        """All since the last time."""
        self._close_removal()
        taken, self._changes = self._changes, []
        self._taken += len(taken)
        return taken

    def _close_removal(self) -> None:
        if self._removed:
            assert len(self._removed) % HASH_BYTES == 0, "hashes are whole"
            self._changes.append(CacheChange(bytes(self._removed), True))
            self._removed.clear()
