"""Whether a sequence may have the blocks that it needs: of the pool, and of its owner's share of it. Gives none."""

from __future__ import annotations

from collections.abc import Sequence as Items

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.scheduling.config import SchedulerConfig

_HEADROOM = 10
"""One block in so many is left for running sequences to grow into, but never more than one for each."""
_BACKGROUND = 8
"""One block in so many is for background requests, whatever is cached in it."""


class BlockBudget:
    """running: the sequences that hold blocks, in the order in which they are served."""

    def __init__(self, pool: BlockPool, config: SchedulerConfig) -> None:
        self._pool = pool
        self._config = config

    def limit(self, sequence: Sequence) -> int | None:
        """Blocks that the sequence's owner may hold; None: all of them."""
        return None if sequence.cache_share >= 1 else self._config.share(sequence.cache_share)

    def fits(self, sequence: Sequence, hits: list[int], running: Items[Sequence]) -> bool:
        """Whether all known tokens fit now and leave the running sequences something to grow into."""
        headroom = min(len(running), self._pool.num_blocks // _HEADROOM)
        needed = self._needed(sequence, hits)
        return needed + headroom <= self._pool.num_free and self._may_evict(sequence, needed, running)

    def fits_share(self, sequence: Sequence, hits: list[int], running: Items[Sequence]) -> bool:
        """As `fits`, of the owner's share: its cached blocks can go, those that its sequences use cannot."""
        limit = self.limit(sequence)
        if limit is None:
            return True
        siblings = sum(other.cache_owner == sequence.cache_owner for other in running)
        headroom = min(siblings, limit // _HEADROOM)
        return self._pool.num_used(sequence.cache_owner) + self._needed(sequence, hits) + headroom <= limit

    def victim_for(self, sequence: Sequence, running: Items[Sequence]) -> Sequence | None:
        """Who has to make room for one more block: the last of all, of those in the background, or of those that
        share a used-up share with it."""
        if not self._pool.num_free:
            return running[-1]
        if not self._may_evict(sequence, 1, running):
            return next(other for other in reversed(running) if other.is_background)
        limit = self.limit(sequence)
        if limit is None or self._pool.num_used(sequence.cache_owner) < limit:
            return None
        return next(other for other in reversed(running) if other.cache_owner == sequence.cache_owner)

    def is_spare(self, sequence: Sequence, running: Items[Sequence]) -> bool:
        """Whether the sequence may have one more block for what it may not need: each that runs could still grow."""
        return self._pool.num_free > len(running) and self.victim_for(sequence, running) is None

    def _may_evict(self, sequence: Sequence, count: int, running: Items[Sequence]) -> bool:
        """Whether so many more blocks may be other than empty and cold ones. Those of a background request may not, if
        others run and hold the background's part already: a single one always gets on."""
        if not sequence.is_background or count <= self._pool.num_cold:
            return True
        others = sum(len(other.block_table) for other in running if other.is_background and other is not sequence)
        return not others or others + len(sequence.block_table) + count <= self._pool.num_blocks // _BACKGROUND

    def _needed(self, sequence: Sequence, hits: list[int]) -> int:
        return self._config.blocks_for(sequence.num_tokens) - len(hits) + self._pool.num_unreferenced(hits)
