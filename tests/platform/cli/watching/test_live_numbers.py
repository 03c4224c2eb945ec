"""The numbers of `multiflora top`: which window they are of, what counts, and what is left out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from tests.platform.cli.watching.live_answers import ALERTS, MODELS, NOW, REPLICAS, answers, point, prompt

from multiflora_platform.base_models.model_schemas import LoadedModel
from multiflora_platform.cli.watching.live_numbers import AdapterLoad, Answers, Numbers, numbers_of, sorted_by
from multiflora_platform.insight.views.activity import Alert, Point
from multiflora_platform.insight.views.requests import RequestView
from multiflora_platform.registry.schemas.answers import Replica


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        (MODELS, LoadedModel),
        (REPLICAS, Replica),
        (ALERTS, Alert),
        ([point()], Point),
        ([prompt("a")], RequestView),
    ],
)
def test_the_tests_answers_are_the_servers(rows: list[dict[str, Any]], answer: type) -> None:
    assert {name for row in rows for name in row} <= set(answer.__annotations__)


def test_rates_are_means_and_what_runs_is_of_all_engines() -> None:
    numbers = numbers_of(answers())
    assert (numbers.requests_per_second, numbers.errors_per_second, numbers.tokens_per_second) == (2.0, 0.5, 1200.0)
    assert (numbers.running, numbers.waiting) == (3, 1)
    assert (numbers.at, numbers.up_seconds) == (NOW, 3661.0), "by the server's clock"


def test_kv_blocks_are_those_of_all_base_models_that_run() -> None:
    numbers = numbers_of(answers())
    assert (numbers.kv_blocks_used, numbers.kv_blocks) == (500, 2000)


def test_an_adapter_has_what_ended_and_what_runs() -> None:
    late = prompt("c", status=504, code="deadline_exceeded", total_seconds=9.0)
    numbers = numbers_of(
        answers(prompt("a"), prompt("b", status=503), late, prompt("d", ended=None), prompt("e", adapter=None))
    )
    assert numbers.adapters == [AdapterLoad("sql", 1, 3, 30, 1, 9.0), AdapterLoad("base", 0, 1, 10, 0, 2.0)]
    assert numbers.requests is not None
    (running,) = numbers.requests
    assert (running.id, running.name, running.stage, running.seconds, running.tokens) == ("d", "sql", "decode", 2.0, 10)


def test_a_refusal_is_no_adapters_request() -> None:
    refused = prompt("a", adapter=None, model="sqll", prompt_tokens=0, status=404, total_seconds=0.0, ttft=None)
    assert numbers_of(answers(refused)).adapters == []


def test_first_tokens_of_before_the_window_do_not_count() -> None:
    old = prompt("a", ended=None, at=NOW - 90, ttft=20.0, cached_tokens=100)
    new = prompt("b", ttft=0.25)
    waits = prompt("c", ended=None, ttft=None, cached_tokens=0)
    numbers = numbers_of(answers(old, new, waits))
    assert (numbers.ttft_p50, numbers.ttft_p95, numbers.cache_hit_rate) == (0.25, 0.25, 0.25)


def test_what_is_not_told_is_none() -> None:
    numbers = numbers_of(Answers(url="http://here", at=NOW))
    told = {field.name for field in fields(Numbers) if getattr(numbers, field.name) is not None}
    assert told == {"url", "at"}


def test_a_server_that_has_just_started_has_no_rates() -> None:
    numbers = numbers_of(answers(points=[]))
    assert (numbers.requests_per_second, numbers.kv_blocks, numbers.gateway_bytes) == (None, None, None)
    assert numbers_of(answers(points=[point(by_base={})])).kv_blocks == 0


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("requests", ["a", "b", "c"]),
        ("tokens", ["b", "c", "a"]),
        ("errors", ["c", "a", "b"]),
        ("p95", ["b", "a", "c"]),
        ("name", ["a", "b", "c"]),
    ],
)
def test_adapters_are_sorted_by_each_column(column: str, names: list[str]) -> None:
    rows = (
        prompt("1", "c", status=500, total_seconds=0.5, completion_tokens=30),
        prompt("2", "b", total_seconds=3.0, completion_tokens=40),
        prompt("3", "a"),
        prompt("4", "a", ended=None),
    )
    loads = sorted_by(numbers_of(answers(*rows)), column).adapters
    assert loads is not None
    assert [load.name for load in loads] == names
