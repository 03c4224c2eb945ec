"""A trace through the engine's own block pool, one request after the other, under one policy of eviction or another."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.evicted_blocks import Evicted
from multiflora_engine.cache.eviction import EvictionQueue
from multiflora_engine.cache.worth import COLD, NEW
from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.block_trace import hashes_of


@dataclass(slots=True)
class Found:
    """Of the blocks of all prompts, those that were cached. skipped: requests that were larger than the pool."""

    found: int = 0
    asked: int = 0
    skipped: int = 0

    @property
    def hit_rate(self) -> float:
        return self.found / self.asked if self.asked else 0.0

    def count(self, found: int, asked: int) -> None:
        self.found += found
        self.asked += asked


class LeastRecentlyUsed(EvictionQueue):
    """As the engine's, but all blocks are worth the same."""

    def begin(self, block_ids: Iterable[int], uses: int) -> None:
        """No block has other uses than a new one."""

    def use(self, block_ids: array[int]) -> None:
        """It makes no difference."""

    def uses_after(self, evicted: Evicted) -> int:
        return NEW


Policy = Callable[[int], EvictionQueue]
POLICIES: dict[str, Policy] = {"worth": EvictionQueue, "lru": LeastRecentlyUsed}


def replay(trace: Iterable[TracedRequest], num_blocks: int, policy: Policy) -> Found:
    """As if each request ended before the next one began. Owners have the whole pool as their share."""
    pool = BlockPool(num_blocks, policy(num_blocks))
    counts = Found()
    for request in trace:
        if len(request.blocks) > num_blocks:
            counts.skipped += 1
            continue
        counts.count(_run(pool, request), request.prompt_blocks)
    return counts


def _run(pool: BlockPool, request: TracedRequest) -> int:
    """Its hits."""
    owner = str(request.owner)
    hashes = hashes_of(request)
    hits = pool.leading(hashes[: request.prompt_blocks])
    pool.share(hits, owner)
    table = array("i", [*hits, *pool.allocate(len(hashes) - len(hits), owner)])
    missed = hashes[len(hits) :]
    uses = COLD if request.background else pool.begin(table[: len(hits)], missed)
    pool.publish_all(table[len(hits) :], missed, owner, uses)
    pool.release(table)
    return len(hits)
