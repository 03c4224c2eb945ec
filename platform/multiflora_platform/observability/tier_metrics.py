"""The families of /metrics about copies of KV blocks behind the device: one sample for each tier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from multiflora_engine.protocol.messages import TierStats

# Without their prefix, by the field of TierStats.
_GAUGES = {
    "blocks": "Copies of KV blocks",
    "bytes": "Bytes of these copies",
    "capacity_bytes": "Bytes that copies may take",
    "bytes_per_second": "Bytes that were loaded in a second, lately",
}
_COUNTERS = {
    "stored": "Blocks copied",
    "loaded": "Blocks that requests started on instead of computing them",
    "lost": "Copies that were damaged, unreadable or gone when they were wanted",
    "failed_writes": "Copies that could not be written",
    "evictions": "Copies given up for others",
}


def tier_families(model: str, tiers: Sequence[TierStats]) -> Iterable[Metric]:
    """None without tiers."""
    if not tiers:
        return
    for field, text in _GAUGES.items():
        family = GaugeMetricFamily(f"multiflora_kv_tier_{field}", text, labels=["model_name", "tier"])
        yield _filled(family, field, model, tiers)
    for field, text in _COUNTERS.items():
        counter = CounterMetricFamily(f"multiflora_kv_tier_{field}", text, labels=["model_name", "tier"])
        yield _filled(counter, field, model, tiers)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, field: str, model: str, tiers: Sequence[TierStats]
) -> Metric:
    for tier in tiers:
        family.add_metric([model, tier.name], getattr(tier, field))
    return family
