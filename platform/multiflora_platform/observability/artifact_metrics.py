"""The families of /metrics about artifacts that a host keeps: one sample for the gateway, one for the engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from multiflora_adapters.storage.host_cache import HostCache
from multiflora_engine.protocol.messages import EngineStats


class ArtifactCounts(NamedTuple):
    bytes: int
    fetches: int
    fetched_bytes: int
    evictions: int

    @classmethod
    def of_cache(cls, cache: HostCache) -> ArtifactCounts:
        return cls(cache.bytes, cache.fetches, cache.fetched_bytes, cache.evictions)

    @classmethod
    def of_engines(cls, stats: EngineStats) -> ArtifactCounts:
        return cls(
            stats.artifact_cache_bytes,
            stats.artifact_fetches,
            stats.artifact_fetched_bytes,
            stats.artifact_evictions,
        )


NO_ARTIFACTS = ArtifactCounts(0, 0, 0, 0)
_COUNTERS = {
    "fetches": "Artifacts that the host lacked and fetched",
    "fetched_bytes": "Bytes of these",
    "evictions": "Artifacts that left the host for others",
}


def artifact_families(model: str, process: str, counts: ArtifactCounts) -> Iterable[Metric]:
    """process: gateway, or engine."""
    labels = ["model_name", "process"]
    size = GaugeMetricFamily("multiflora_artifact_cache_bytes", "Bytes of artifacts when room was made", labels=labels)
    size.add_metric([model, process], counts.bytes)
    yield size
    for field, text in _COUNTERS.items():
        family = CounterMetricFamily(f"multiflora_artifact_cache_{field}", text, labels=labels)
        family.add_metric([model, process], getattr(counts, field))
        yield family
