"""Seconds and minutes, quantiles and rates."""

from __future__ import annotations

from dataclasses import replace

from multiflora_platform.insight.series import OTHER, Gauges, Series

IDLE = Gauges(0, 0, 0.0, 0, 0, 1000, 2000, None)


def test_a_second_has_its_rates_and_quantiles() -> None:
    series = Series()
    for number in range(100):
        series.prompt(10, number / 100)
    series.generated("sql", 3, None)
    series.generated("sql", 1, 0.02)
    series.generated("base", 2, 0.04)
    series.ended(is_error=False)
    series.ended(is_error=True)
    point = series.tick(50.0, replace(IDLE, running=2, waiting=1, kv_use=0.5, cache_queries=200, cache_hits=50))
    assert (point.at, point.tokens_per_second, point.prompt_tokens_per_second) == (50.0, 6.0, 1000.0)
    assert (point.ttft_p50, point.ttft_p95, point.itl_p50, point.itl_p95) == (0.5, 0.95, 0.04, 0.04)
    assert (point.requests, point.errors, point.running, point.waiting, point.kv_use) == (2, 1, 2, 1, 0.5)
    assert point.cache_hit_rate == 0.25
    assert point.by_model == {"sql": 4.0, "base": 2.0}
    empty = series.tick(51.0, replace(IDLE, cache_queries=200, cache_hits=50))
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
    series.tick(1.0, replace(IDLE, cache_queries=1000, cache_hits=500))
    assert series.tick(2.0, replace(IDLE, cache_queries=10, cache_hits=9)).cache_hit_rate == 0.9


def test_many_models_share_one_line() -> None:
    series = Series()
    for number in range(40):
        series.generated(f"adapter-{number:02d}", 100 - number, None)
    by_model = series.tick(1.0, IDLE).by_model
    assert len(by_model) == 33
    assert by_model[OTHER] == sum(100 - number for number in range(32, 40))
