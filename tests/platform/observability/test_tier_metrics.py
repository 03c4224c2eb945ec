from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from multiflora_engine.protocol.messages import TierStats
from multiflora_platform.observability.tier_metrics import tier_families


def test_each_tier_has_its_sample_of_each_family() -> None:
    sizes = {"blocks": 3, "bytes": 300, "capacity_bytes": 900, "stored": 5, "failed_writes": 1, "evictions": 2}
    disk = TierStats(name="disk", loaded=7, lost=4, bytes_per_second=1e6, **sizes)

    class Tiers(Collector):
        def collect(self) -> list[Metric]:
            return [*tier_families("m", [disk])]

    registry = CollectorRegistry()
    registry.register(Tiers())
    told = generate_latest(registry).decode().splitlines()
    samples = {line.split("{")[0]: float(line.split()[-1]) for line in told if not line.startswith("#")}
    assert samples == {
        **{f"multiflora_kv_tier_{name}": sizes[name] for name in ("blocks", "bytes", "capacity_bytes")},
        **{f"multiflora_kv_tier_{name}_total": sizes[name] for name in ("stored", "failed_writes", "evictions")},
        "multiflora_kv_tier_bytes_per_second": 1e6,
        "multiflora_kv_tier_loaded_total": 7,
        "multiflora_kv_tier_lost_total": 4,
    }
    assert all('model_name="m",tier="disk"' in line for line in told if not line.startswith("#"))
    assert [*tier_families("m", [])] == []
