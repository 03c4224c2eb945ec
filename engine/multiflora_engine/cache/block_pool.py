"""The pool of KV blocks: who references a block, which are free, and which content is published under which hash.

Hands out ids and knows nothing of sequences, tokens or devices. After vLLM's paged KV cache (Kwon et al., SOSP 2023).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.evicted_blocks import EvictedBlocks
from multiflora_engine.cache.eviction import EvictionQueue
from multiflora_engine.cache.numbering import Numbering
from multiflora_engine.cache.published_blocks import PublishedBlocks
from multiflora_engine.cache.worth import COLD, NEW

_NO_OWNER = 0


class BlockPool:
    """Blocks 0 ... num_blocks - 1, each in one of three states.

    empty: no sequence references it and its content means nothing. used: referenced by one or more sequences.
    evictable: no sequence references it, but its content is published and may be hit until the block is given away.
    """

    def __init__(
        self,
        num_blocks: int,
        eviction: EvictionQueue | None = None,
        on_evict: Callable[[int, bytes], None] = lambda block_id, hash: None,
    ) -> None:
        """on_evict: told the id and the hash of each block that can be found no more, before it is given away: until
        then the block holds what was published."""
        self.num_blocks = num_blocks
        self._on_evict = on_evict
        self.evictions = 0
        self.evicted = EvictedBlocks()
        # One entry for each block, here and in what follows: an object for each would take ten times the memory.
        # Block tables and pins that it is in.
        self._references = array("i", [0]) * num_blocks
        # Whose share it counts towards.
        self._owners = array("i", [_NO_OWNER]) * num_blocks
        self._owner_numbers: Numbering[str] = Numbering()
        self._published = PublishedBlocks(num_blocks)
        # 1: a sequence went on its own way behind this published block.
        self._forked = bytearray(num_blocks)
        self._empty = array("i", range(num_blocks - 1, -1, -1))
        self._evictable = EvictionQueue(num_blocks) if eviction is None else eviction

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give: empty and evictable ones."""
        return len(self._empty) + len(self._evictable)

    @property
    def num_cold(self) -> int:
        """Of those, the ones that no client has waited for: empty ones, and what only background requests used."""
        return len(self._empty) + self._evictable.num_cold

    @property
    def num_published(self) -> int:
        return len(self._published)

    @property
    def tags(self) -> npt.NDArray[np.uint64]:
        """[num_blocks]: see PublishedBlocks."""
        return self._published.tags

    @property
    def reference_counts(self) -> npt.NDArray[np.int32]:
        """[num_blocks]: a view of what it holds now."""
        return np.frombuffer(self._references, np.int32)

    def allocate(self, count: int = 1, owner: str = "", limit: int | None = None) -> list[int]:
        """`count` private blocks with one reference each, evicting where nothing is empty. At most num_free.

        limit: used and evictable blocks that the owner may have; beyond it, its own evictable blocks go first.
        """
        assert count <= self.num_free, "callers check num_free first"
        if limit is not None:
            # Its own blocks first: an owner at its limit must not evict what others have cached.
            self._evict_of(owner, self._held(owner) + count - limit)
        return [self._take(owner) for _ in range(count)]

    def num_used(self, owner: str) -> int:
        """Blocks of the owner that sequences reference."""
        return self._held(owner) - self._evictable.held(self._owner_numbers.number(owner))

    def find(self, hash: bytes) -> int | None:
        """The block published under the hash, or under one that begins with this tag. It may be evictable: `share` it
        before allocating anything."""
        return self._published.find(hash)

    def leading(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the first hashes, up to one that is not found: blocks are evicted one by one, but a sequence
        can start on an unbroken prefix only."""
        blocks: list[int] = []
        for hash in hashes:
            block_id = self.find(hash)
            if block_id is None:
                break
            blocks.append(block_id)
        return blocks

    def hash_of(self, block_id: int) -> bytes | None:
        """What its KV is published under; None: it is empty, or private to one sequence."""
        return self._published.hash_of(block_id) if block_id in self._published else None

    def share(self, block_ids: Iterable[int], owner: str = "") -> None:
        """Adds a reference to each published block; one that was evictable counts towards this owner from now on."""
        for block_id in block_ids:
            assert block_id in self._published, "a private block belongs to one sequence"
            if not self._references[block_id]:
                self._evictable.take(block_id)
                # A pin names no owner: the block stays with the one that it had.
                if owner:
                    self._assign(block_id, owner)
            self._references[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drops one reference to each block of a table, last block first: the heads of prefixes live longest."""
        for block_id in reversed(block_ids):
            assert self._references[block_id] > 0, "released more often than taken"
            self._references[block_id] -= 1
            if self._references[block_id]:
                continue
            if block_id in self._published:
                self._evictable.add(block_id, self._owners[block_id])
            else:
                self._give_up(block_id)

    def begin(self, hits: array[int], missed: Sequence[bytes]) -> int:
        """A sequence that a client waits for starts on blocks that it shares; the uses of those that it will publish.

        missed: the hashes of its blocks behind them.
        """
        evicted = self.evicted.find(missed[0]) if missed else None
        # The first sequence that goes on behind a block: what grows like this, a conversation, grows again. Behind a
        # context that many ask about, each prompt ends in its own way.
        grows = len(hits) > 0 and not self._forked[hits[-1]]
        if grows:
            self._forked[hits[-1]] = 1
        self._evictable.note_new(len(missed))
        self._evictable.use(hits)
        if evicted is not None:
            return self._evictable.uses_after(evicted)
        return NEW + 1 if grows else NEW

    def use(self, hits: array[int]) -> None:
        """A sequence that a client waits for, and that began before, goes on with blocks that it shares."""
        self._evictable.use(hits)

    def publish(self, block_id: int, hash: bytes, owner: str) -> bool:
        """Offers a computed block for hits; False if the same content is published already: this copy stays private."""
        return bool(self.publish_all([block_id], [hash], owner))

    def publish_all(self, block_ids: Sequence[int], hashes: Sequence[bytes], owner: str, uses: int = NEW) -> list[int]:
        """Offers computed blocks for hits; the places, among these, of those that can be found now. Where the same
        content is published already, the copy stays private.

        uses: as `begin` said; COLD of a background request.
        """
        assert all(map(self._references.__getitem__, block_ids)), "published by a sequence that holds them"
        # Two sequences may compute the same block at once: the first copy serves all hits, this one only its sequence.
        places = self._published.add_all(block_ids, hashes)
        if len(places) < len(block_ids):
            block_ids, hashes = [block_ids[place] for place in places], [hashes[place] for place in places]
        self._evictable.begin(block_ids, uses)
        self.evicted.discard(hashes)
        number, owners = self._owner_numbers.number(owner), self._owners
        for block_id in block_ids:
            if owners[block_id] != number:
                self._assign(block_id, owner)
        return places

    def cool(self, block_ids: Iterable[int]) -> None:
        """Uses that these blocks had, which are referenced now, count no more."""
        self._evictable.begin(block_ids, COLD)

    def unpublish(self, block_id: int) -> None:
        """The content of a published block is found no more; sequences that reference the block go on with it."""
        hash = self._published.hash_of(block_id)
        self._published.remove(block_id)
        if not self._references[block_id]:
            self._evictable.remove(block_id)
            self._give_up(block_id)
        self._forget(block_id, hash)

    def num_unreferenced(self, block_ids: Iterable[int]) -> int:
        """How many of these blocks `share` would take out of num_free."""
        return sum(not self._references[block_id] for block_id in block_ids)

    def references(self, block_id: int) -> int:
        return self._references[block_id]

    def _take(self, owner: str) -> int:
        if not self._empty:
            self._evict(self._evictable.pop())
        block_id = self._empty.pop()
        self._references[block_id] = 1
        self._assign(block_id, owner)
        return block_id

    def _held(self, owner: str) -> int:
        """Used and evictable blocks that count towards the owner."""
        number = self._owner_numbers.number(owner)
        return 0 if number == _NO_OWNER else self._owner_numbers.count(number)

    def _evict_of(self, owner: str, excess: int) -> None:
        number = self._owner_numbers.number(owner)
        for _ in range(min(excess, self._evictable.held(number))):
            self._evict(self._evictable.pop_of(number))

    def _evict(self, block_id: int) -> None:
        hash = self._published.hash_of(block_id)
        self._published.remove(block_id)
        self._give_up(block_id)
        self.evictions += 1
        self._forget(block_id, hash)

    def _forget(self, block_id: int, hash: bytes) -> None:
        self._forked[block_id] = 0
        self.evicted.add(hash, self._evictable.uses(block_id), self._evictable.released(block_id))
        self._on_evict(block_id, hash)

    def _give_up(self, block_id: int) -> None:
        """It is empty from now on."""
        self._assign(block_id, "")
        self._empty.append(block_id)

    def _assign(self, block_id: int, owner: str) -> None:
        """Counts are kept of those who own something: owners come and go."""
        before = self._owners[block_id]
        if before != _NO_OWNER and before == self._owner_numbers.number(owner):
            return
        self._owners[block_id] = self._owner_numbers.add(owner) if owner else _NO_OWNER
        if before != _NO_OWNER:
            self._owner_numbers.remove(before)
