"""Seconds and minutes, quantiles and rates, and what is alarming about them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multiflora_platform.insight.alerts import Alerts, engine_findings, traffic_findings
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


def test_alerts_remember_since_when_and_forget_what_is_over() -> None:
    now = [100.0]
    alerts = Alerts(lambda: now[0])
    (alert,) = alerts.of(list(engine_findings("restarting", 3)))
    now[0] = 160.0
    (again,) = alerts.of(list(engine_findings("restarting", 3)))
    assert (alert.since, again.since, again.severity, again.link) == (100.0, 100.0, "error", "/ui/settings")
    assert alerts.of(list(engine_findings("ready", 3))) == []
    (anew,) = alerts.of(list(engine_findings("failed", 4)))
    assert anew.since == 160.0


@pytest.mark.parametrize(("waiting", "found"), [((4, 4), []), ((0, 50), []), ((4, 40), ["queue"])])
def test_a_queue_that_grows(waiting: tuple[int, int], found: list[str]) -> None:
    series = Series()
    for second in range(30):
        now = waiting[0] + (waiting[1] - waiting[0]) * second // 29
        series.tick(float(second), replace(IDLE, waiting=now))
    assert [finding.id for finding in traffic_findings(list(series.seconds))] == found


def test_a_full_cache_that_finds_less() -> None:
    series, queries, hits = Series(), 0, 0
    for second in range(400):
        queries, hits = queries + 100, hits + (80 if second < 330 else 10)
        gauges = replace(IDLE, kv_use=0.99 if second > 300 else 0.4, cache_queries=queries, cache_hits=hits)
        series.tick(float(second), gauges)
    assert [finding.id for finding in traffic_findings(list(series.seconds))] == ["cache"]


def test_requests_that_fail() -> None:
    series = Series()
    for second in range(60):
        series.ended(is_error=second % 10 == 0)
        series.tick(float(second), IDLE)
    assert [finding.id for finding in traffic_findings(list(series.seconds))] == ["errors"]
