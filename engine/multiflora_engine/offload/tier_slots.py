"""Which block's copy lies in which slot of a tier, and whose has to go: by worth and recency, owner by owner.

Knows no bytes and no files. One thread changes it; `find` may be asked by any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from multiflora_engine.cache.eviction import EvictionQueue
from multiflora_engine.cache.numbering import Numbering
from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.cache.worth import COLD, MOST_USES, NEW

# Seconds by which a block's last use may be older on disk than it was.
_WORTH_WRITING = 60


@dataclass(slots=True)
class KeptBlock:
    """What a tier knows of one block's copy.

    owner: a digest of whose share it counts towards. parent: the tag of the hash before it. depth: its number in its
    prompt. used_at: Unix seconds. uses: see cache/worth.py.
    """

    hash: bytes
    owner: bytes
    parent: bytes
    depth: int
    used_at: int = 0
    uses: int = NEW
    # Of its content, filled by the tier that keeps it where it may be damaged.
    checksum: bytes = field(default=b"", repr=False)


class TierSlots:
    """Slots 0 ... num_slots - 1, each empty, reserved (being written) or holding the copy of one block.

    capacity: num_slots, or fewer while it does not grow. on_evict: told each slot whose copy is given up.
    """

    def __init__(self, num_slots: int, on_evict: Callable[[int], None] = lambda slot: None) -> None:
        self.capacity = num_slots
        self._num_slots = num_slots
        self.evictions = 0
        self._on_evict = on_evict
        self._by_hash: dict[bytes, int] = {}
        self._blocks: dict[int, KeptBlock] = {}
        self._owners: Numbering[bytes] = Numbering()
        self._queue = EvictionQueue(num_slots)
        self._given_back: list[int] = []
        self._never_used = 0

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, hash: bytes) -> int | None:
        return self._by_hash.get(hash)

    def hashes(self) -> list[bytes]:
        """Of all copies."""
        return list(self._by_hash)

    def block(self, slot: int) -> KeptBlock:
        """Of a slot that holds one."""
        return self._blocks[slot]

    def held(self, owner: bytes) -> int:
        """Slots that hold copies of the owner's."""
        return self._queue.held(self._owners.number(owner))

    def reserve(self, owner: bytes, limit: int | None = None) -> int | None:
        """An empty slot; where there is none, the worst copy's. None: the tier has no slot at all.

        limit: copies that the owner may have; beyond it, its own go first.
        """
        if limit is not None:
            for _ in range(min(self.held(owner), max(0, self.held(owner) + 1 - limit))):
                self._give_up(self._queue.pop_of(self._owners.number(owner)))
        if self._given_back:
            return self._given_back.pop()
        if self._never_used < self.capacity:
            self._never_used += 1
            return self._never_used - 1
        if not len(self._queue):
            return None
        self._give_up(self._queue.pop())
        return self._given_back.pop()

    def fill(self, slot: int, block: KeptBlock) -> None:
        """A reserved slot holds this block's copy from now on."""
        assert block.hash not in self._by_hash, "one copy in a tier"
        self._blocks[slot] = block
        self._queue.begin([slot], block.uses)
        self._queue.add(slot, self._owners.add(block.owner))
        self._by_hash[block.hash] = slot

    def give_back(self, slot: int) -> None:
        """A reserved slot was not filled."""
        self._given_back.append(slot)

    def is_first_use(self, slot: int) -> bool:
        """Whether a reserved slot is the last one that was ever given: what cannot grow fails there."""
        return slot == self._never_used - 1

    def stop_growing(self) -> None:
        """There is no room behind the slots that were filled; the one reserved last is not one of them."""
        self._never_used -= 1
        self.capacity = self._never_used

    def grow_again(self) -> None:
        """There may be room by now."""
        self.capacity = self._num_slots

    def use(self, hashes: Iterable[bytes], counts: bool, now: int) -> list[int]:
        """These blocks were used, the first of a prompt first; the slots whose block changed in what is worth writing.

        counts: a client waited for it, so each is worth more from now on.
        """
        changed = []
        found = [slot for hash in hashes if (slot := self._by_hash.get(hash)) is not None]
        # The last one first: the beginnings of prompts are to stay longest.
        for slot in reversed(found):
            block = self._blocks[slot]
            uses = min(max(block.uses, NEW) + 1, MOST_USES) if counts else block.uses
            if uses != block.uses or now - block.used_at >= _WORTH_WRITING:
                changed.append(slot)
                block.used_at = now
            block.uses = uses
            owner = self._owners.number(block.owner)
            (self._queue.take if counts else self._queue.remove)(slot)
            self._queue.begin([slot], uses)
            self._queue.add(slot, owner)
        return changed

    def discard(self, hash: bytes) -> None:
        """The block's copy is found no more, if there is one."""
        slot = self._by_hash.get(hash)
        if slot is not None:
            self._queue.remove(slot)
            self._forget(slot)

    def behind(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Of these blocks those that are kept, and all that continue any of them."""
        following: dict[bytes, list[bytes]] = {}
        for block in self._blocks.values():
            following.setdefault(block.parent, []).append(block.hash)
        reached = list(hashes)
        found = [hash for hash in reached if hash in self._by_hash]
        while reached:
            after = following.pop(reached.pop()[:TAG_BYTES], [])
            found += after
            reached += after
        return found

    def restore(self, blocks: dict[int, KeptBlock]) -> None:
        """What was kept before this process began, by slot."""
        # As they were used, and of what was used at once the last of a prompt first.
        for slot, block in sorted(blocks.items(), key=lambda item: (item[1].used_at, -item[1].depth)):
            if block.hash not in self._by_hash and slot < self.capacity and COLD <= block.uses <= MOST_USES:
                self.fill(slot, block)
        self._never_used = max(self._blocks, default=-1) + 1
        self._given_back = [slot for slot in range(self._never_used) if slot not in self._blocks]

    def _give_up(self, slot: int) -> None:
        self.evictions += 1
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        block = self._blocks.pop(slot)
        del self._by_hash[block.hash]
        self._owners.remove(self._owners.number(block.owner))
        self._given_back.append(slot)
        self._on_evict(slot)
