"""What each engine's memory is for, as /metrics tells it."""

from __future__ import annotations

from tests.platform.gateway.house import READY

from multiflora_engine.protocol.messages import EngineStats, TierStats
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.observability.scrape import EngineView, ReplicaView

SIZES = dict.fromkeys((field for field in TierStats.__struct_fields__ if field != "name"), 0)


def test_an_engine_that_serves_tells_what_its_memory_is_for() -> None:
    tiers = [TierStats(name=name, **{**SIZES, "bytes": size}) for name, size in (("host", 700), ("disk", 90_000))]
    stats = EngineStats(adapter_bytes=30, adapter_host_bytes=50, tiers=tiers)
    replicas = [
        ReplicaView("0", "ready", 0, None, stats, 0.0, READY),
        ReplicaView("1", "restarting", 1, None, EngineStats()),
    ]
    page = Metrics("base").render([EngineView("base", "ready", 1, stats, READY, replicas=replicas)]).decode()
    shown = [line for line in page.splitlines() if line.startswith("multiflora_memory_bytes{")]
    sizes = {"weights": READY.weight_bytes, "kv_cache": READY.kv_bytes, "adapters": 30, "adapters_host": 50}
    assert {line.split(" ")[0]: float(line.split(" ")[1]) for line in shown} == {
        f'multiflora_memory_bytes{{model_name="base",replica="0",use="{use}"}}': size
        for use, size in (sizes | {"kv_host": 700}).items()
    }
