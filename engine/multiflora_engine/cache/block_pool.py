"""The pool of KV blocks: who references a block, which are free, and which content is published under which hash.

Hands out ids and knows nothing of sequences, tokens or devices. After vLLM's paged KV cache (Kwon et al., SOSP 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from multiflora_engine.cache.eviction import EvictionQueue


@dataclass(slots=True, eq=False)
class _Block:
    """What the pool knows of one block; the pool alone writes it."""

    # Block tables and pins that it is in.
    references: int = 0
    # What its KV is published under; None: it is empty, or private to one sequence.
    hash: bytes | None = None
    # It counts towards the share of this owner; "": of none.
    owner: str = ""


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
        self._blocks = [_Block() for _ in range(num_blocks)]
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._evictable = EvictionQueue() if eviction is None else eviction
        self._published: dict[bytes, int] = {}
        self._held: Counter[str] = Counter()

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give: empty and evictable ones."""
        return len(self._empty) + len(self._evictable)

    @property
    def num_published(self) -> int:
        return len(self._published)

    def allocate(self, count: int = 1, owner: str = "", limit: int | None = None) -> list[int]:
        """`count` private blocks with one reference each, evicting where nothing is empty. At most num_free.

        limit: used and evictable blocks that the owner may have; beyond it, its own evictable blocks go first.
        """
        assert count <= self.num_free, "callers check num_free first"
        if limit is not None:
            # Its own blocks first: an owner at its limit must not evict what others have cached.
            self._evict_of(owner, self._held[owner] + count - limit)
        return [self._take(owner) for _ in range(count)]

    def num_used(self, owner: str) -> int:
        """Blocks of the owner that sequences reference."""
        return self._held[owner] - self._evictable.held(owner)

    def find(self, hash: bytes) -> int | None:
        """The block published under the hash. It may be evictable: `share` it before allocating anything."""
        return self._published.get(hash)

    def share(self, block_ids: Iterable[int], owner: str = "") -> None:
        """Adds a reference to each published block; one that was evictable counts towards this owner from now on."""
        for block_id in block_ids:
            block = self._blocks[block_id]
            assert block.hash is not None, "a private block belongs to one sequence"
            if block.references == 0:
                self._evictable.remove(block_id)
                # A pin names no owner: the block stays with the one that it had.
                self._assign(block, owner or block.owner)
            block.references += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drops one reference to each block of a table, last block first: the heads of prefixes live longest."""
        for block_id in reversed(block_ids):
            block = self._blocks[block_id]
            assert block.references > 0, "released more often than taken"
            block.references -= 1
            if block.references:
                continue
            if block.hash is None:
                self._assign(block, "")
                self._empty.append(block_id)
            else:
                self._evictable.add(block_id, block.owner)

    def publish(self, block_id: int, hash: bytes, owner: str) -> bool:
        """Offers a computed block for hits; False if the same content is published already: this copy stays private."""
        block = self._blocks[block_id]
        assert block.references, "published by a sequence that holds it"
        assert block.hash is None, "published once"
        # Two sequences may compute the same block at once: the first copy serves all hits, this one only its sequence.
        if hash in self._published:
            return False
        self._published[hash] = block_id
        block.hash = hash
        self._assign(block, owner)
        return True

    def unpublish(self, hash: bytes) -> None:
        """The content is found no more; sequences that reference the block go on with it."""
        block_id = self._published.pop(hash)
        block = self._blocks[block_id]
        block.hash = None
        if not block.references:
            self._evictable.remove(block_id)
            self._assign(block, "")
            self._empty.append(block_id)
        self._on_evict(block_id, hash)

    def num_unreferenced(self, block_ids: Iterable[int]) -> int:
        """How many of these blocks `share` would take out of num_free."""
        return sum(self._blocks[block_id].references == 0 for block_id in block_ids)

    def references(self, block_id: int) -> int:
        return self._blocks[block_id].references

    def _take(self, owner: str) -> int:
        if not self._empty:
            self._evict(self._evictable.pop())
        block_id = self._empty.pop()
        self._blocks[block_id].references = 1
        self._assign(self._blocks[block_id], owner)
        return block_id

    def _evict_of(self, owner: str, excess: int) -> None:
        for _ in range(min(excess, self._evictable.held(owner))):
            self._evict(self._evictable.pop_of(owner))

    def _evict(self, block_id: int) -> None:
        block = self._blocks[block_id]
        assert block.hash is not None, "only published blocks are evictable"
        hash, block.hash = block.hash, None
        del self._published[hash]
        self._assign(block, "")
        self._empty.append(block_id)
        self.evictions += 1
        self._on_evict(block_id, hash)

    def _assign(self, block: _Block, owner: str) -> None:
        """Counts are kept of those who own something: owners come and go."""
        if block.owner:
            self._held[block.owner] -= 1
            if not self._held[block.owner]:
                del self._held[block.owner]
        if owner:
            self._held[owner] += 1
        block.owner = owner
