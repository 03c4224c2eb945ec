"""What the gateway and the engines of each base model have and do at this moment."""

from __future__ import annotations

from collections.abc import Iterable

from multiflora_engine.profiling.process_memory import own_resident_bytes, resident_bytes_of
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.engine import EngineHandle, NamedEngine, ReplicaHandle, runs
from multiflora_platform.insight.series import EngineGauges, Gauges
from multiflora_platform.insight.views.activity import ReplicaMemory


def gauges_of(bases: Iterable[NamedEngine]) -> Gauges:
    """Of base models whose engines no request needs there is nothing to tell."""
    return Gauges({base.name: _gauges(base.engine) for base in bases if runs(base.engine)}, own_resident_bytes())


def _gauges(engine: EngineHandle) -> EngineGauges:
    stats = engine.stats
    ready = [replica.ready for replica in engine.replicas if replica.ready is not None]
    on_gpu = bool(ready) and _is_on_gpu(ready[0])
    memory = {replica.id: _memory(replica) for replica in engine.replicas}
    return EngineGauges(
        running=stats.running,
        waiting=stats.waiting,
        kv_blocks=stats.num_blocks,
        kv_blocks_used=stats.num_blocks - stats.free_blocks,
        cache_queries=stats.cache_queries,
        cache_hits=stats.cache_hits,
        engine_bytes=resident_bytes_of(replica.pid for replica in engine.replicas),
        device_bytes=sum(one.kv_bytes + one.weight_bytes for one in ready) if on_gpu else None,
        cache_bytes=sum(one.copies + (0 if on_gpu else one.kv) for one in memory.values()),
        memory=memory,
    )


def _is_on_gpu(ready: Ready) -> bool:
    return ready.device.startswith("cuda")


def _memory(replica: ReplicaHandle) -> ReplicaMemory:
    """KV blocks on a CPU are the system's until they are written for the first time."""
    ready, stats, process = replica.ready, replica.stats, resident_bytes_of([replica.pid])
    copies = stats.adapter_host_bytes + sum(tier.bytes for tier in stats.tiers if tier.name == "host")
    if ready is None:
        return ReplicaMemory(0, 0, 0, copies, None if process is None else max(0, process - copies))
    if _is_on_gpu(ready):
        on_device = (ready.weight_bytes, ready.kv_bytes, stats.adapter_bytes)
        return ReplicaMemory(*on_device, copies, None if process is None else max(0, process - copies))
    used = min(ready.num_blocks, stats.num_blocks - stats.free_blocks + stats.cached_blocks)
    kv = used * ready.kv_bytes // max(1, ready.num_blocks)
    parts = (ready.weight_bytes, kv, stats.adapter_bytes, copies)
    return ReplicaMemory(*parts, None if process is None else max(0, process - sum(parts)))
