"""What an engine tells of its load, from its heartbeats and its cache's report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from multiflora_engine.protocol.messages import CacheNode, CacheReply, EngineStats
from multiflora_platform.on_ray.load_signal import LoadSignal, hot_blocks


def node(name: str, parent: str | None, hits: int, idle: float, blocks: int) -> CacheNode:
    return CacheNode(name, parent, None, "", blocks * 16, blocks, hits, 1000.0, idle, False, False)


def test_what_was_found_lately_is_hot_with_all_that_stands_before_it() -> None:
    nodes = [
        node("root", None, 0, 900.0, 1),
        node("found", "root", 3, 20.0, 2),
        node("again", "found", 1, 10.0, 4),
        node("long ago", "root", 9, 400.0, 8),
        node("never", "found", 0, 1.0, 16),
        node("not all shown", "elsewhere", 1, 1.0, 32),
    ]
    assert hot_blocks(nodes) == 1 + 2 + 4 + 32


async def test_the_signal_is_of_the_last_heartbeat_and_looks_at_the_cache_now_and_then() -> None:
    asked: list[str] = []

    async def cache(action: str) -> CacheReply:
        asked.append(action)
        return CacheReply(1, nodes=[node("a", None, 1, 0.0, 5)])

    client: Any = SimpleNamespace(ready=None, stats=EngineStats(), cache=cache)
    signal = LoadSignal(SimpleNamespace(client=client))  # type: ignore[arg-type]
    assert await signal.told(0.0) == {}

    client.ready = SimpleNamespace(max_num_seqs=4, num_blocks=100)
    client.stats = EngineStats(num_blocks=100, free_blocks=25, running=2, pending_prefill_tokens=1000)
    told = await signal.told(1.0)
    assert (told["kv_use"], told["seats"], told["hot_blocks"], told["blocks"]) == (0.75, 0.5, 5.0, 100.0)
    assert told["queue_seconds"] > 0

    # A heartbeat later a prompt's token turns out to take a hundredth of a second.
    worked = {"steps": 10, "prompt_tokens": 100, "step_seconds": 1.0}
    client.stats = msgspec.structs.replace(client.stats, **worked)
    assert (await signal.told(2.0))["queue_seconds"] == pytest.approx(10.0)
    assert asked == ["report"]
    await signal.told(40.0)
    assert asked == ["report", "report"]
