"""Which numbers raise which alert: at the threshold, just below it, and not before it has lasted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from multiflora_platform.insight.alerts.findings import Thresholds, engine_findings, memory_findings, traffic_findings
from multiflora_platform.insight.series import EngineGauges, Gauges, Series

IDLE = Gauges({"base": EngineGauges(engine_bytes=2000)}, 1000)
THRESHOLDS = Thresholds(waiting=5, waiting_seconds=30, error_rate=0.05, cache_thrash=0.25, memory_growth=0.2)


def waits(sequences: int) -> Gauges:
    return Gauges({"base": EngineGauges(waiting=sequences)}, 1000)


def found(series: Series, thresholds: Thresholds = THRESHOLDS) -> list[str]:
    return [finding.id for finding in traffic_findings(list(series.seconds), thresholds)]


@pytest.mark.parametrize(
    ("before", "seconds", "waiting", "expected"),
    [(0, 30, 6, ["waiting"]), (5, 29, 6, []), (0, 100, 5, []), (500, 29, 500, ["waiting"])],
)
def test_requests_that_wait_for_long(before: int, seconds: int, waiting: int, expected: list[str]) -> None:
    series = Series()
    for second, now in enumerate([before] + [waiting] * seconds):
        series.tick(float(second), waits(now))
    assert found(series) == expected


def test_one_second_without_a_queue_begins_anew() -> None:
    series = Series()
    for second in range(60):
        series.tick(float(second), waits(0 if second == 31 else 50))
    assert found(series) == []
    assert found(series, replace(THRESHOLDS, waiting_seconds=10)) == ["waiting"]


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(25, 25, ["cache"]), (24, 100, []), (100, 24, []), (0, 0, [])]
)
def test_prompts_that_are_computed_again_after_eviction(first: int, second: int, expected: list[str]) -> None:
    series = Series()
    for tick in range(60):
        series.prompt(100, 0.1, evicted_tokens=first if tick < 30 else second)
        series.tick(float(tick), IDLE)
    assert found(series) == expected


def test_half_a_minute_is_too_short_to_tell_thrashing() -> None:
    series = Series()
    for tick in range(59):
        series.prompt(100, 0.1, evicted_tokens=100)
        series.tick(float(tick), IDLE)
    assert found(series) == []


@pytest.mark.parametrize(("every", "expected"), [(10, ["errors"]), (20, ["errors"]), (25, [])])
def test_requests_that_fail(every: int, expected: list[str]) -> None:
    series = Series()
    for tick in range(60):
        for number in range(5):
            series.ended("sql", None, is_error=(5 * tick + number) % every == 0)
        series.tick(float(tick), IDLE)
    assert found(series) == expected


def hours_of(gateway: list[int], cached: list[int]) -> list[str]:
    """The findings after a minute of each; the engine has 2,000 bytes besides."""
    point = Series().tick(0.0, IDLE)
    minutes = [
        msgspec.structs.replace(point, host_bytes=has + 2000, cache_bytes=caches)
        for has, caches in zip(gateway, cached, strict=True)
    ]
    return [finding.id for finding in memory_findings(minutes, THRESHOLDS)]


def test_memory_that_grows_by_more_than_its_share_within_an_hour() -> None:
    slow, fast = [1000 + minute for minute in range(60)], [1000 + 20 * minute for minute in range(60)]
    none = [0] * 60
    assert hours_of(fast, none) == ["memory"]
    assert hours_of(slow, none) == []
    assert hours_of(fast[:59], none[:59]) == [], "an hour is not over"
    assert hours_of(fast, [20 * minute for minute in range(60)]) == [], "a cache that fills up"
    assert hours_of([1000] * 55 + [9000] * 5, none) == [], "a burst"
    assert hours_of([0] * 5 + [2000] * 55, none) == [], "an engine that was restarted at the beginning"


def test_each_replica_that_does_not_serve_is_named() -> None:
    def replica(id: str, state: str) -> SimpleNamespace:
        return SimpleNamespace(id=id, state=state, restarts=3)

    (only,) = engine_findings([replica("0", "restarting")])
    assert (only.id, only.severity, only.link) == ("engine", "error", "/ui/replicas")
    assert only.detail == "It is restarting; restarts so far: 3."
    states = ("ready", "restarting", "starting", "draining", "failed", "stopped")
    several = list(engine_findings([replica(str(number), state) for number, state in enumerate(states)]))
    assert [(finding.id, finding.title) for finding in several] == [
        ("engine 1", "The engine of replica 1 is not serving"),
        ("engine 4", "The engine of replica 4 is not serving"),
    ]
