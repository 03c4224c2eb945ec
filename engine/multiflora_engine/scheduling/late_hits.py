"""Hits of a prefill that runs already: before its next chunk it takes blocks that others have published meanwhile.

By content and under the same rules as at a start (PrefixCache.hits); computes nothing and decides no order.
"""

from __future__ import annotations

from array import array

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.sequence import Sequence


class LateHits:
    """Where there is nothing to take, a chunk costs one lookup of one hash."""

    def __init__(self, pool: BlockPool, cache: PrefixCache, block_size: int) -> None:
        self._pool = pool
        self._cache = cache
        self._block_size = block_size

    def attach(self, sequence: Sequence) -> int | None:
        """How many tokens the sequence, whose next chunk is to be scheduled, needs not compute any more.

        None: there are some, once the step in flight is committed; until then the sequence is left alone, because that
        step may have to be executed again and would write into blocks that others read.
        """
        start = sequence.num_scheduled_tokens
        first = start // self._block_size
        hits = self._cache.hits(sequence, first)
        if not hits:
            return 0
        if sequence.in_flight:
            return None
        self._replace(sequence, first, hits)
        end = (first + len(hits)) * self._block_size
        sequence.num_computed_tokens = sequence.num_scheduled_tokens = end
        return end - start

    def _replace(self, sequence: Sequence, first: int, hits: list[int]) -> None:
        """Its own blocks in these places, of which the first may be half computed, are given back."""
        stop = first + len(hits)
        own = sequence.block_table[first:stop]
        self._pool.share(hits, sequence.cache_owner)
        sequence.block_table[first:stop] = array("i", hits)
        self._pool.release(own)
        self._cache.record_late_hits(sequence, first, len(hits))
