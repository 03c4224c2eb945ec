"""What each engine's memory is for, as /metrics tells it."""

from __future__ import annotations

from msgspec.structs import replace
from tests.platform.gateway.house import READY

from multiflora_engine.protocol.messages import EngineStats, StageMemory, TierStats
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


def test_stages_tell_what_each_of_them_takes() -> None:
    ready = replace(READY, stages=(StageMemory(1, 500, 100), StageMemory(2, 300, 200)))
    replicas = [
        ReplicaView("0", "ready", 0, None, EngineStats(stage_adapter_bytes=[7, 9]), 0.0, ready),
        ReplicaView("1", "ready", 0, None, EngineStats(), 0.0, ready),
    ]
    page = Metrics("base").render([EngineView("base", "ready", 1, EngineStats(), ready, replicas=replicas)]).decode()
    shown = [line.split("model_name=")[1] for line in page.splitlines() if line.startswith("multiflora_stage_memory")]
    sizes = [(500.0, 100.0), (300.0, 200.0)]
    assert shown == [
        f'"base",replica="{replica}",stage="{stage}",use="{use}"}} {size}'
        for replica, adapters in (("0", (7.0, 9.0)), ("1", (0.0, 0.0)))
        for stage in (0, 1)
        for use, size in (("weights", sizes[stage][0]), ("kv_cache", sizes[stage][1]), ("adapters", adapters[stage]))
    ]
