"""What the prefix cache holds, for people: contents, hits and ages of its blocks, and why a prompt missed.

Follows what is published, hit and given up; decides nothing and owns no blocks.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from multiflora_engine.core.sequence import Sequence

_REMEMBERED_EVICTIONS = 65_536


@dataclass(slots=True, eq=False)
class CachedBlock:
    """One published block, for people. CacheIndex makes it when the block is published, and counts hits on it."""

    hash: bytes
    # Hash of the block before it, or the root's.
    parent: bytes
    token_ids: array[int]
    # Digest; None: the base model.
    adapter: str | None
    # Of the sequence that published it (Sequence.cache_owner).
    owner: str
    # Unix seconds.
    published_at: float
    # Of the last hit, or of publication where there was none, Unix seconds.
    used_at: float
    # Sequences that started on it.
    hits: int = 0


class CacheIndex:
    """One entry for each published block. clock: Unix seconds."""

    def __init__(self, block_size: int, clock: Callable[[], float] = time.time) -> None:
        self._block_size = block_size
        self._clock = clock
        self._blocks: dict[bytes, CachedBlock] = {}
        self._evicted: OrderedDict[bytes, None] = OrderedDict()
        self._beginnings: dict[bytes, Counter[tuple[str | None, str]]] = {}

    def blocks(self) -> Iterable[CachedBlock]:
        return self._blocks.values()

    def find(self, hash: bytes) -> CachedBlock | None:
        return self._blocks.get(hash)

    def published(self, sequence: Sequence, number: int) -> None:
        """Block `number` of the sequence can be found from now on."""
        size, hashes = self._block_size, sequence.block_hashes
        now = self._clock()
        block = self._blocks[hashes[number]] = CachedBlock(
            hash=hashes[number],
            parent=hashes[number - 1] if number else sequence.root_hash,
            token_ids=array("I", sequence.token_ids[number * size : (number + 1) * size]),
            adapter=sequence.adapter_digest,
            owner=sequence.cache_owner,
            published_at=now,
            used_at=now,
        )
        self._evicted.pop(block.hash, None)
        if number == 0:
            beginnings = self._beginnings.setdefault(block.token_ids.tobytes(), Counter())
            beginnings[block.adapter, block.owner] += 1

    def on_evict(self, block_id: int, hash: bytes) -> None:
        """The block was evicted or dropped."""
        block = self._blocks.pop(hash)
        self._evicted[hash] = None
        if len(self._evicted) > _REMEMBERED_EVICTIONS:
            self._evicted.popitem(last=False)
        beginning = block.token_ids.tobytes()
        places = self._beginnings.get(beginning)
        if places is not None and places[block.adapter, block.owner]:
            places[block.adapter, block.owner] -= 1
            if not +places:
                del self._beginnings[beginning]

    def hit(self, hashes: Iterable[bytes]) -> None:
        now = self._clock()
        for hash in hashes:
            block = self._blocks[hash]
            block.hits += 1
            block.used_at = now

    def why_missed(self, sequence: Sequence, num_hits: int) -> str:
        """Why the block after `num_hits` hits was not used: whole_prompt_asked (it is there), evicted, diverged,
        other_adapter, other_tenant, other_salt or first_seen; "" when no whole block is left to find."""
        if num_hits >= (sequence.num_tokens - 1) // self._block_size or num_hits >= len(sequence.block_hashes):
            return ""
        if sequence.block_hashes[num_hits] in self._blocks and sequence.reads_whole_prompt:
            return "whole_prompt_asked"
        if sequence.block_hashes[num_hits] in self._evicted:
            return "evicted"
        if num_hits:
            return "diverged"
        places = self._beginnings.get(array("I", sequence.token_ids[: self._block_size]).tobytes())
        if not places:
            return "first_seen"
        owners = {owner for adapter, owner in +places if adapter == sequence.adapter_digest}
        if not owners:
            return "other_adapter"
        return "other_salt" if sequence.cache_owner in owners else "other_tenant"
