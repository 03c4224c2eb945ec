"""What one engine tells of its load, for a decision about how many there should be. Knows no other engine."""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.supervisor import EngineSupervisor
from multiflora_engine.protocol.messages import CacheNode
from multiflora_platform.fleet.pace import Pace, Slowness

_HOT_EVERY = 30.0
"""Seconds between two reports of the cache, which cost the engine something."""
_HOT_SECONDS = 300.0
"""What was found again within these is hot."""


class LoadSignal:
    """An engine's part of fleet.scaling.Load, from its heartbeats."""

    def __init__(self, supervisor: EngineSupervisor) -> None:
        self._supervisor = supervisor
        self._pace = Pace()
        self._slowness = Slowness()
        self._hot_blocks, self._hot_at = 0, float("-inf")

    async def told(self, now: float) -> dict[str, float]:
        """Load's fields by name, but the number of replicas; empty while the engine does not serve. now: seconds."""
        client = self._supervisor.client
        ready, stats = client.ready, client.stats
        if ready is None or not stats.num_blocks:
            return {}
        self._slowness.observe(stats, self._pace, now)
        if now - self._hot_at >= _HOT_EVERY:
            self._hot_at = now
            await self._look_for_hot_blocks()
        return {
            "queue_seconds": self._pace.seconds(stats.pending_prefill_tokens, 0),
            "kv_use": 1 - stats.free_blocks / stats.num_blocks,
            "seats": stats.running / ready.max_num_seqs,
            "hot_blocks": float(self._hot_blocks),
            "blocks": float(ready.num_blocks),
        }

    async def _look_for_hot_blocks(self) -> None:
        try:
            reply = await self._supervisor.client.cache("report")
        except EngineUnavailable:
            return
        self._hot_blocks = hot_blocks(reply.nodes)


def hot_blocks(nodes: Sequence[CacheNode]) -> int:
    """Of runs that were found lately, and of those that stand before them."""
    by_hash = {node.hash: node for node in nodes}
    hot: set[str] = set()
    for node in nodes:
        if node.hits and node.idle_seconds <= _HOT_SECONDS:
            hash: str | None = node.hash
            while hash in by_hash and hash not in hot:
                hot.add(hash)
                hash = by_hash[hash].parent
    return sum(by_hash[hash].blocks for hash in hot)
