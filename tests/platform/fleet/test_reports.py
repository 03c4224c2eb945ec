"""One report of several: numbers add up, the fastest place is told, a deed of one is done."""

from __future__ import annotations

from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.messages import CacheReply, EngineStats, ResidencyReport, Status, TierStats
from multiflora_platform.fleet.reports import counters_of, joined, merged_cache, sum_of


def test_counters_gauges_and_distributions_are_added_up() -> None:
    one = EngineStats(running=1, step_seconds=0.5, step_tokens=Distribution((1, 8), (1, 0, 2), 30))
    two = EngineStats(running=2, step_seconds=0.25, step_tokens=Distribution((1, 8), (0, 4, 1), 40))
    both = sum_of([one, EngineStats(), two])
    assert (both.running, both.step_seconds) == (3, 0.75)
    assert both.step_tokens == Distribution((1, 8), (1, 4, 3), 70)
    assert sum_of([]) == EngineStats()
    assert counters_of(both) == EngineStats(step_seconds=0.75, step_tokens=both.step_tokens)


def test_tiers_are_added_up_by_name() -> None:
    def tier(name: str, stored: int, speed: float) -> TierStats:
        rest = dict.fromkeys(("bytes", "capacity_bytes", "loaded", "lost", "failed_writes", "evictions"), 0)
        return TierStats(name=name, blocks=1, stored=stored, bytes_per_second=speed, **rest)

    both = sum_of(
        [EngineStats(tiers=[tier("host", 3, 0.0), tier("disk", 1, 2.0)]), EngineStats(tiers=[tier("host", 4, 8.0)])]
    )
    assert [(one.name, one.blocks, one.stored, one.bytes_per_second) for one in both.tiers] == [
        ("host", 2, 7, 8.0),
        ("disk", 1, 1, 2.0),
    ]
    (left, _) = counters_of(both).tiers
    assert (left.blocks, left.stored) == (0, 7)


def test_an_adapter_is_where_it_is_fastest() -> None:
    on_disk = ResidencyReport("a", "disk", True, 0, 0, 0, None, 9.0)
    in_slot = ResidencyReport("a", "slot", False, 8, 100, 2, 1, 3.0)
    other = ResidencyReport("b", "cpu", False, 4, 50, 0)
    status = joined([Status(1, 11, EngineStats(), [on_disk]), Status(2, 22, EngineStats(), [in_slot, other])])
    assert status.pid == 11
    assert status.adapters == [ResidencyReport("a", "slot", True, 8, 100, 2, 1, 3.0), other]


def test_of_the_cache_the_best_is_told_and_traces_are_joined() -> None:
    missing = CacheReply(0, error="It is not cached.")
    assert merged_cache("pin", [missing, CacheReply(0)]).error is None
    assert merged_cache("pin", [missing, missing]).error == "It is not cached."
    assert merged_cache("find", [CacheReply(0, found=1), CacheReply(0, found=4, evicted=True)]).found == 4
    traces = merged_cache("trace", [CacheReply(0, lost=1), CacheReply(0, lost=2, has_more=True)])
    assert (traces.lost, traces.has_more) == (3, True)
