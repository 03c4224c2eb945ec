"""Seconds and minutes, quantiles and rates."""

from __future__ import annotations

from typing import Any

from multiflora_platform.insight.series import OTHER, EngineGauges, Gauges, Series
from multiflora_platform.insight.views.activity import EndedRequests

IDLE = Gauges({}, 1000)


def of(**gauges: Any) -> Gauges:
    return Gauges({"base": EngineGauges(**gauges)}, 1000)


def test_a_second_has_its_rates_and_quantiles() -> None:
    series = Series()
    for number in range(100):
        series.prompt(10, number / 100)
    series.generated("sql", 3, None)
    series.generated("sql", 1, 0.02)
    series.generated("base", 2, 0.04)
    for number in range(1, 21):
        series.ended("sql", number / 10, is_error=False)
    series.ended("base", None, is_error=True)
    point = series.tick(50.0, of(running=2, waiting=1, kv_blocks=8, kv_blocks_used=4, cache_queries=200, cache_hits=50))
    assert (point.at, point.tokens_per_second, point.prompt_tokens_per_second) == (50.0, 6.0, 1000.0)
    assert (point.ttft_p50, point.ttft_p95, point.itl_p50, point.itl_p95) == (0.5, 0.95, 0.04, 0.04)
    assert (point.requests, point.errors, point.running, point.waiting, point.kv_use) == (21, 1, 2, 1, 0.5)
    assert point.cache_hit_rate == 0.25
    assert point.by_model == {"sql": 4.0, "base": 2.0}
    assert point.ended_by_model == {"sql": EndedRequests(20, 0, 2.0), "base": EndedRequests(1, 1, None)}
    empty = series.tick(51.0, of(cache_queries=200, cache_hits=50))
    assert (empty.tokens_per_second, empty.ttft_p50, empty.cache_hit_rate, empty.requests) == (0.0, None, None, 0)


def test_minutes_reach_further_back_than_seconds() -> None:
    series = Series()
    for second in range(1000):
        series.generated("base", 6, None)
        series.tick(float(second), IDLE)
    recent, day = series.window(60), series.window(86_400)
    assert (recent.interval, len(recent.points), recent.points[-1].at) == (1, 60, 999.0)
    assert (day.interval, len(day.points)) == (60, 16)
    assert {point.tokens_per_second for point in day.points} == {6.0}
    assert len(series.window(900).points) == 900
    assert len(series.window(120 * 60).points) == 16


def test_a_restarted_engine_counts_anew() -> None:
    series = Series()
    series.tick(1.0, of(cache_queries=1000, cache_hits=500))
    assert series.tick(2.0, of(cache_queries=10, cache_hits=9)).cache_hit_rate == 0.9


def test_base_models_are_told_apart_and_together() -> None:
    one = EngineGauges(1, 2, 100, 25, 1000, 500, engine_bytes=7, cache_bytes=3)
    other = EngineGauges(3, 4, 10, 8, 40, 10, engine_bytes=5, device_bytes=6, cache_bytes=2)
    point = Series().tick(1.0, Gauges({"one": one, "other": other}, 1000))
    assert (point.running, point.waiting, point.engine_bytes, point.device_bytes) == (4, 6, 12, 6)
    assert (point.host_bytes, point.cache_bytes) == (1012, 5)
    assert point.kv_use == 0.8, "of the one whose cache is the fullest"
    assert point.by_base == {"one": one.shown, "other": other.shown}
    assert (point.by_base["one"].kv_blocks_used, point.by_base["other"].engine_bytes) == (25, 5)


def test_a_base_model_that_comes_and_goes_counts_its_own_tokens() -> None:
    """What it counted before is no difference to what the others count after."""
    series, one = Series(), EngineGauges(cache_queries=1000, cache_hits=100)
    both = {"one": one, "other": EngineGauges(cache_queries=500, cache_hits=500)}
    rates = [series.tick(float(at), Gauges(bases, 0)).cache_hit_rate for at, bases in enumerate((both, {"one": one}))]
    back = {
        "one": EngineGauges(cache_queries=1010, cache_hits=101),
        "other": EngineGauges(cache_queries=10, cache_hits=9),
    }
    assert [*rates, series.tick(2.0, Gauges(back, 0)).cache_hit_rate] == [0.4, None, 0.5]


def test_many_models_share_one_line() -> None:
    series = Series()
    for number in range(40):
        series.generated(f"adapter-{number:02d}", 100 - number, None)
        series.ended(f"adapter-{number:02d}", 1.0, is_error=False)
    point = series.tick(1.0, IDLE)
    by_model = point.by_model
    assert len(by_model) == 33
    assert (len(point.ended_by_model), point.ended_by_model[OTHER].requests, point.requests) == (33, 8, 40)
    assert by_model[OTHER] == sum(100 - number for number in range(32, 40))
