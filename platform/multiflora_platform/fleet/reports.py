"""What several engines say, as one report: counters are added up, of each adapter the fastest place is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.messages import CacheReply, EngineStats, Ready, ResidencyReport, Status, TierStats

_PLACES = ("slot", "cpu", "disk")
_FIELDS = msgspec.structs.asdict(EngineStats())
_DISTRIBUTIONS = [name for name, value in _FIELDS.items() if isinstance(value, Distribution)]
_NUMBERS = [name for name, value in _FIELDS.items() if isinstance(value, int | float)]
_OF_TIERS = [field for field in TierStats.__struct_fields__ if field not in ("name", "bytes_per_second")]
_GAUGES = (
    "running",
    "waiting",
    "deferred",
    "num_blocks",
    "free_blocks",
    "cached_blocks",
    "pending_prefill_tokens",
    "adapter_bytes",
    "adapter_host_bytes",
    "artifact_cache_bytes",
)


def sum_of(stats: Sequence[EngineStats]) -> EngineStats:
    """Gauges and counters of all engines together."""
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in stats) for name in _NUMBERS}
    sums |= {name: _joined([getattr(one, name) for one in stats]) for name in _DISTRIBUTIONS}
    return EngineStats(**sums, tiers=_tiers([tier for one in stats for tier in one.tiers]))


def counters_of(stats: EngineStats) -> EngineStats:
    """What an engine that is gone leaves to the sums: its counters, for they only grow."""
    gone = {"blocks": 0, "bytes": 0, "capacity_bytes": 0, "bytes_per_second": 0.0}
    tiers = [msgspec.structs.replace(tier, **gone) for tier in stats.tiers]
    return msgspec.structs.replace(stats, **dict.fromkeys(_GAUGES, 0), tiers=tiers)


def common(ready: Sequence[Ready]) -> Ready | None:
    """What holds for each of them: the smallest sizes, because a request runs on one engine alone."""
    if not ready:
        return None
    return msgspec.structs.replace(
        ready[0],
        num_blocks=min(one.num_blocks for one in ready),
        max_model_len=min(one.max_model_len for one in ready),
        kv_bytes=min(one.kv_bytes for one in ready),
        max_num_seqs=min(one.max_num_seqs for one in ready),
        max_num_batched_tokens=min(one.max_num_batched_tokens for one in ready),
    )


def joined(statuses: Sequence[Status]) -> Status:
    """Under the first one's pid."""
    adapters: dict[str, ResidencyReport] = {}
    for one in (adapter for status in statuses for adapter in status.adapters):
        other = adapters.get(one.digest)
        adapters[one.digest] = one if other is None else _both(other, one)
    first = statuses[0]
    return Status(first.call_id, first.pid, sum_of([status.stats for status in statuses]), list(adapters.values()))


def merged_cache(action: str, replies: Sequence[CacheReply]) -> CacheReply:
    """What one of them has done is done; an error where none could."""
    done = [reply for reply in replies if reply.error is None]
    if not done:
        return replies[0]
    match action:
        case "find":
            return max(done, key=lambda reply: reply.found)
        case "report":
            return msgspec.structs.replace(done[0], nodes=[node for reply in done for node in reply.nodes])
        case "trace":
            return msgspec.structs.replace(
                done[0],
                traced=[request for reply in done for request in reply.traced],
                lost=sum(reply.lost for reply in done),
                has_more=any(reply.has_more for reply in done),
            )
    return done[0]


def _both(one: ResidencyReport, other: ResidencyReport) -> ResidencyReport:
    fast = min(one, other, key=lambda report: _PLACES.index(report.residency))
    return msgspec.structs.replace(
        fast,
        pinned=one.pinned or other.pinned,
        rank=max(one.rank, other.rank),
        bytes=max(one.bytes, other.bytes),
        running=one.running + other.running,
        idle_seconds=min(one.idle_seconds, other.idle_seconds),
    )


def _tiers(tiers: Sequence[TierStats]) -> list[TierStats]:
    """One of each name; the speed is their mean, of those that have measured one."""
    joined: dict[str, list[TierStats]] = {}
    for tier in tiers:
        joined.setdefault(tier.name, []).append(tier)
    return [_tier(name, of_name) for name, of_name in joined.items()]


def _tier(name: str, tiers: Sequence[TierStats]) -> TierStats:
    sums = {field: sum(getattr(tier, field) for tier in tiers) for field in _OF_TIERS}
    speeds = [tier.bytes_per_second for tier in tiers if tier.bytes_per_second]
    return TierStats(name=name, **sums, bytes_per_second=sum(speeds) / len(speeds) if speeds else 0.0)


def _joined(distributions: Iterable[Distribution]) -> Distribution:
    filled = [one for one in distributions if one.counts]
    if not filled:
        return Distribution()
    counts = tuple(sum(column) for column in zip(*(one.counts for one in filled), strict=True))
    return Distribution(filled[0].bounds, counts, sum(one.total for one in filled))
