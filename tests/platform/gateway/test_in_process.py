"""Requests of the server's own work: what refuses them for now is waited out."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response

from multiflora_platform.gateway.in_process import persistently


async def test_a_refusal_is_waited_out_and_a_long_one_is_asked_again_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def ask() -> Response:
        return answers.pop(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    refusals = [Response(status_code=429, headers={"Retry-After": seconds}) for seconds in ("7", "1209600")]
    answers = [*refusals, Response(status_code=503), Response(status_code=200)]
    assert (await persistently(ask)).status_code == 200
    assert pauses == [7.0, 60.0, 1.0]


async def test_an_adapter_that_cannot_be_loaded_for_minutes_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def ask() -> Response:
        return answers.pop(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    broken = Response(b'{"error":{"message":"its file is gone","code":"adapter_unavailable"}}', 503)
    answers = [*[broken] * 7, Response(status_code=503), *[broken] * 9]
    assert await persistently(ask) is broken
    assert len(answers) == 1, "counted anew, as the engine restarted meanwhile"
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 1, 1, 2, 4, 8, 16, 32, 60]
