"""What engines have of memory is told by part and by replica, and no byte of a process twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from tests.platform.fleet.lines import READY, Line, fleet_of

from multiflora_engine.protocol.messages import EngineStats
from multiflora_platform.insight import gauges
from multiflora_platform.insight.views.activity import ReplicaMemory

STATS = EngineStats(num_blocks=10, free_blocks=8, cached_blocks=3, adapter_bytes=30, adapter_host_bytes=7)


@pytest.mark.parametrize(
    ("device", "memory", "cached"),
    [
        ("cpu", ReplicaMemory(weights=200, kv=50, adapters=30, copies=7, rest=713), 57),
        ("cuda:0", ReplicaMemory(weights=200, kv=100, adapters=30, copies=7, rest=993), 7),
    ],
)
def test_each_part_is_told_by_replica(
    monkeypatch: pytest.MonkeyPatch, device: str, memory: ReplicaMemory, cached: int
) -> None:
    monkeypatch.setattr(gauges, "resident_bytes_of", lambda pids: 1000 * len(list(pids)))
    ready = replace(READY, device=device, num_blocks=10, kv_bytes=100, weight_bytes=200)
    lines = [Line(ready), Line(ready)]
    for line in lines:
        line.stats = STATS
    base = gauges.gauges_of([SimpleNamespace(name="base", engine=fleet_of(*lines))]).bases["base"]
    assert base.memory == {"0": memory, "1": memory}
    assert (base.engine_bytes, base.cache_bytes) == (2000, 2 * cached)
