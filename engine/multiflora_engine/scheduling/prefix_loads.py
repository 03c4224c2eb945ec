"""Prefixes read ahead of a start: a waiting sequence whose next blocks have copies behind the device gets them first.

The sequence alone waits; blocks are allocated as if it started, filled by BlockTiers, published, and free again before
it starts on them. What cannot be loaded is computed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.block_tiers import BlockLoad, BlockTiers
from multiflora_engine.core.sequence import Sequence, SequenceStatus
from multiflora_engine.scheduling.block_budget import BlockBudget

_PUBLISHED_PER_STEP = 256
# A sequence whose loaded blocks were evicted before it could start tries again, but not for ever.
_MOST_LOADS = 3
# Seconds without one more block, after which sequences compute what they wait for.
_PATIENCE = 5.0


@dataclass(slots=True)
class _Loading:
    """table: the hits and what is being loaded behind them, all held. num_published: leading blocks of the table that
    can be found; what is left of the load is being published when it is finished."""

    sequence: Sequence
    load: BlockLoad
    table: array[int]
    num_published: int
    is_finished: bool = False


class PrefixLoads:
    """Loads of waiting sequences. clock: seconds."""

    def __init__(
        self,
        tiers: BlockTiers,
        pool: BlockPool,
        cache: PrefixCache,
        budget: BlockBudget,
        clock: Callable[[], float],
    ) -> None:
        self._tiers = tiers
        self._pool = pool
        self._cache = cache
        self._budget = budget
        self._clock = clock
        self._loading: dict[BlockLoad, _Loading] = {}
        # The first block that each sequence waits for. Weak: sequences end, waiting or not.
        self._waiting: WeakKeyDictionary[Sequence, bytes] = WeakKeyDictionary()
        # By the hash of each block that is being loaded.
        self._hashes: dict[bytes, _Loading] = {}
        self._num_loads: WeakKeyDictionary[Sequence, int] = WeakKeyDictionary()
        self._progress = 0
        self._progressed_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a load will end soon and give blocks back."""
        return bool(self._loading) and not self._is_stuck()

    def has_to_wait(self, sequence: Sequence) -> bool:
        """Whether what it waits for is still being loaded."""
        hash = self._waiting.get(sequence)
        if hash is None:
            return False
        if hash in self._hashes and not self._is_stuck():
            return True
        del self._waiting[sequence]
        return False

    def begin(self, sequence: Sequence, hits: list[int]) -> bool:
        """Whether it waits for blocks behind its hits from now on: for its own load, or for another sequence's.

        There must be room for all its blocks.
        """
        missed = self._cache.missed(sequence, len(hits))
        if not missed or self._is_stuck() or self._num_loads.get(sequence, 0) >= _MOST_LOADS:
            return False
        if missed[0] not in self._hashes:
            count = self._tiers.count_worth_loading(missed)
            if not count:
                return False
            self._load(sequence, hits, missed[:count])
        self._num_loads[sequence] = self._num_loads.get(sequence, 0) + 1
        self._waiting[sequence] = missed[0]
        return True

    def take_in(self) -> None:
        """Once per step: publishes what was loaded, a bounded part at a time."""
        if not self._loading:
            return
        for load in self._tiers.finished():
            self._loading[load].is_finished = True
        left = _PUBLISHED_PER_STEP
        for loading in list(self._loading.values()):
            if loading.is_finished:
                left = self._publish(loading, left)
            elif loading.sequence.status is SequenceStatus.FINISHED:
                loading.load.is_wanted = False
        self._note_progress()

    def _load(self, sequence: Sequence, hits: list[int], hashes: list[bytes]) -> None:
        if not self._loading:
            self._progressed_at = self._clock()
        # Held as the hits of a sequence that starts are: an allocation could evict them.
        self._pool.share(hits, sequence.cache_owner)
        blocks = self._pool.allocate(len(hashes), sequence.cache_owner, self._budget.limit(sequence))
        load = self._tiers.load(hashes, blocks, sequence.cache_share)
        loading = _Loading(sequence, load, array("i", [*hits, *blocks]), len(hits))
        self._loading[load] = loading
        self._hashes.update(dict.fromkeys(hashes, loading))

    def _publish(self, loading: _Loading, most: int) -> int:
        """Publishes the next part, and gives all blocks back behind the last one; how many more may be published."""
        num_hits = len(loading.table) - len(loading.load.hashes)
        end = num_hits + loading.load.num_loaded
        stop = min(end, loading.num_published + most)
        if stop > loading.num_published:
            self._cache.publish_loaded(loading.sequence, loading.num_published, stop, loading.table)
        most -= stop - loading.num_published
        loading.num_published = stop
        if stop == end:
            self._end(loading)
        return most

    def _end(self, loading: _Loading) -> None:
        del self._loading[loading.load]
        for hash in loading.load.hashes:
            if self._hashes.get(hash) is loading:
                del self._hashes[hash]
        self._pool.release(loading.table)
        if loading.load.num_loaded < len(loading.load.hashes):
            # What failed now would fail again: the rest is computed.
            self._num_loads[loading.sequence] = _MOST_LOADS

    def _note_progress(self) -> None:
        progress = sum(loading.load.num_loaded + loading.is_finished for loading in self._loading.values())
        if progress != self._progress:
            self._progress, self._progressed_at = progress, self._clock()

    def _is_stuck(self) -> bool:
        return bool(self._loading) and self._clock() - self._progressed_at > _PATIENCE
