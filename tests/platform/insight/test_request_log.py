"""A prompt's stages add up, and the oldest are forgotten."""

from __future__ import annotations

import gc
from dataclasses import replace
from unittest.mock import ANY

import pytest

from multiflora_platform.engine import Placement
from multiflora_platform.insight import logged_request
from multiflora_platform.insight.earlier_lives import SeenBefore
from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.insight.misses import miss_of
from multiflora_platform.insight.request_log import EndedRequest, RequestLog
from multiflora_platform.observability.observers import NewTokens, PromptStart
from multiflora_platform.web.openai_errors import ApiError


class Clock:
    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logged_request, "time", clock)
    return clock


def facts(id: str = "r1") -> PromptFacts:
    return PromptFacts(id, 1000.0, "team", "sql", "sql", 3, "d" * 64, "/v1/chat/completions", True, 48, key_id="ci")


def test_queue_load_prefill_and_decode_make_up_the_whole(clock: Clock) -> None:
    entry = RequestLog().open(facts())
    assert [stage.stage for stage in entry.view().timeline] == ["queue"]
    clock.now = 1005.0
    entry.started(PromptStart(16, 3.0, 2.0, "diverged"))
    entry.tokens(NewTokens(0, [1, 2], 0.25, at=10.0, since_last=None))
    clock.now = 1009.0
    entry.tokens(NewTokens(0, [3], 0.25, at=10.5, since_last=0.5))
    entry.answered(0, "stop")
    entry.ended("ok", None)
    view = entry.view()
    assert (view.queue_seconds, view.load_seconds, view.prefill_seconds, view.decode_seconds) == (1.0, 2.0, 2.0, 4.0)
    assert view.key_id == "ci"
    assert (view.ttft, view.total_seconds, view.device_seconds) == (5.0, 9.0, 0.5)
    assert (view.status, view.code, view.finish_reason, view.completion_tokens, view.version) == (
        200,
        None,
        "stop",
        3,
        3,
    )
    assert [(stage.start, stage.end) for stage in view.timeline] == [
        (1000.0, 1001.0),
        (1001.0, 1003.0),
        (1003.0, 1005.0),
        (1005.0, 1009.0),
    ]
    miss = miss_of(view)
    assert miss is not None
    assert (miss.reason, miss.cached_tokens) == ("diverged", 16)
    assert "from token 16 on" in miss.detail


def test_ends_that_are_no_answers(clock: Clock) -> None:
    log = RequestLog()
    failed, left = log.open(facts("a")), log.open(facts("b"))
    failed.ended("error", ApiError(504, "deadline_exceeded", "too late"))
    left.ended("abort", None)
    assert (failed.view().status, failed.view().code) == (504, "deadline_exceeded")
    assert (left.view().status, left.view().code) == (499, "client_disconnected")
    assert miss_of(left.view()) is None


def test_the_oldest_are_forgotten_and_pages_go_back(clock: Clock) -> None:
    log = RequestLog(size=5)
    for number in range(8):
        log.open(facts(f"r{number}"))
    assert [entry.id for entry in log.newest()] == ["r7", "r6", "r5", "r4", "r3"]
    assert [entry.id for entry in log.newest("r5")] == ["r4", "r3"]
    assert log.find("r2") is None


def test_equal_refusals_are_one_entry_with_a_count_and_do_not_push_prompts_out() -> None:
    log = RequestLog()
    log.open(facts("prompt"))
    for number in range(5000):
        log.refuse(replace(facts(f"r{number}"), at=2000.0 + number), 429, "rate_limit_exceeded")
    (refused, prompt) = log.newest()
    view = refused.view()
    assert (view.id, view.at, view.status, view.code, view.count) == ("r0", 6999.0, 429, "rate_limit_exceeded", 5000)
    assert (prompt.id, prompt.view().count, view.timeline) == ("prompt", 1, [])
    for number in range(1000):
        log.refuse(replace(facts(f"m{number}"), model=f"m{number}"), 404, "model_not_found")
    assert len(list(log.newest())) == 201
    assert log.find("prompt") is not None


def test_what_has_ended_is_the_same_packed_and_no_work_for_the_collector(clock: Clock) -> None:
    log = RequestLog(size=2)
    entry = log.open(
        replace(
            facts(), kv_digest="k" * 64, activated_at=7, answer="ans", base_digest="b" * 64, http_id="of-the-client"
        )
    )
    entry.placement = Placement("1", "cached", 16, 0.5, None, 2)
    entry.started(PromptStart(16, 3.0, 2.0, "diverged", cache_write_tokens=4))
    entry.tokens(NewTokens(0, [1, 2], 0.25, at=10.0, since_last=None))
    entry.answered(0, "stop")
    clock.now = 1009.0
    entry.ended("error", ApiError(504, "deadline_exceeded", "too late"))
    (ended,) = log.newest()
    assert ended.view() == entry.view()
    assert (
        log.find("r1")
        == log.find_by_answer("chatcmpl-ans")
        == log.find_by_answer("of-the-client")
        == replace(entry, changes=ANY, on_end=None)
    )
    assert isinstance(ended, EndedRequest)
    assert not gc.is_tracked(ended)
    assert (ended.id, ended.at, ended.tenant, ended.model, ended.answer, ended.status, ended.miss_reason) == (
        entry.id,
        entry.at,
        entry.tenant,
        entry.model,
        entry.answer,
        entry.status,
        entry.miss_reason,
    )


def test_one_that_is_forgotten_while_it_runs_stays_forgotten() -> None:
    log = RequestLog(size=2)
    first, *_ = [log.open(replace(facts(f"r{number}"), at=1000.0 + number)) for number in range(3)]
    first.ended("ok", None)
    assert [entry.id for entry in log.newest()] == [entry.id for entry in log.newest(since=0)] == ["r2", "r1"]
    assert log.find("r0") is log.find_by_answer("") is None


def test_what_changed_since_a_cursor() -> None:
    log = RequestLog()
    done, runs = log.open(facts("done")), log.open(facts("runs"))
    done.ended("ok", None)
    changes = log.changes_since(log.cursor)
    assert changes is not None
    assert [entry.id for entry in log.newest(since=changes)] == ["runs"], "what runs changes all the time"
    log.refuse(replace(facts("refused"), at=2000.0), 429, "rate_limit_exceeded")
    runs.ended("ok", None)
    assert [entry.id for entry in log.newest(since=changes)] == ["refused", "runs"]
    assert [entry.id for entry in log.newest("refused", since=changes)] == ["runs"]
    last = log.changes_since(log.cursor)
    assert list(log.newest(since=last)) == []
    assert log.changes_since(RequestLog().cursor) is None
    assert log.changes_since("nonsense") is None


def test_a_stamp_changes_while_a_prompt_runs_and_as_long_as_a_minute_s_numbers_fall(clock: Clock) -> None:
    log = RequestLog()
    of_team, of_other = log.course("team"), log.course("other")
    nothing = of_other.stamp(clock.now)
    entry = log.open(facts())
    running = [of_team.stamp(clock.now + second) for second in (0, 100, 200)]
    clock.now += 200
    entry.ended("ok", None)
    ended = [of_team.stamp(clock.now + second) for second in (0, 30, 60, 61, 500)]
    assert len({*running, *ended}) == 6
    assert ended[2:] == ended[2:3] * 3
    assert log.course(None).stamp(clock.now) == ended[0]
    assert of_other.stamp(clock.now) == nothing


@pytest.mark.parametrize(
    ("reason", "cached", "told"),
    [
        ("first_seen", 0, "first_seen"),
        ("diverged", 16, "engine_restarted"),
        ("diverged", 32, "engine_restarted"),
        ("diverged", 48, "other_replica"),
        ("diverged", 64, "diverged"),
        ("other_adapter", 32, "engine_restarted"),
        ("other_tenant", 32, "engine_restarted"),
        ("other_salt", 48, "other_replica"),
        ("other_adapter", 64, "other_adapter"),
        ("whole_prompt_asked", 16, "whole_prompt_asked"),
        ("evicted", 16, "evicted"),
        ("", 16, ""),
    ],
)
def test_what_was_lost_with_the_engine_or_is_elsewhere_is_a_reason(reason: str, cached: int, told: str) -> None:
    entry = RequestLog().open(facts())
    entry.seen = SeenBefore(16, 48, 64)
    entry.started(PromptStart(cached, 0.0, 0.0, reason))
    assert entry.view().miss_reason == told
    assert bool(miss_of(entry.view())) == bool(told)
