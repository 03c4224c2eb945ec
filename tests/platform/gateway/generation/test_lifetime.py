"""Disconnects, deadlines, an engine that is away, and the end of the server: nothing hangs, nothing leaks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.platform.gateway.house import ADMIN, House

PATH = "/v1/completions"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "sql", "prompt": "Say", "max_tokens": 64, **fields}


async def leave(house: House, request: dict[str, Any], after: int) -> None:
    """Calls the application as a server does and disconnects after so many messages."""
    content = json.dumps(request).encode()
    gone, sent, asked = asyncio.Event(), [], False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": content, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {ADMIN}".encode())], "scheme": "http",
        "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    task = asyncio.create_task(house.app(scope, receive, send))
    await house.until(lambda: len(sent) >= after and house.engine.requests)
    gone.set()
    await asyncio.wait_for(task, 30)


@pytest.mark.parametrize(
    ("fields", "hangs", "after"),
    [
        ({}, True, 0),
        ({"stream": True}, True, 0),
        ({"stream": True}, False, 3),
        ({"prompt": ["a", "b", "c"], "n": 2}, True, 0),
        ({"prompt": ["a", "b", "c"], "stream": True}, False, 3),
    ],
)
async def test_leaving_is_the_abort(house: House, fields: dict[str, Any], hangs: bool, after: int) -> None:
    house.engine.hangs, house.engine.pace = hangs, 0.01
    await leave(house, body(**fields), after)
    assert sorted(house.engine.aborted) == sorted(request.id for request in house.engine.requests)
    assert (house.registry.leased, house.services.active, house.services.in_flight) == ([], set(), 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_holds_even_when_the_engine_is_silent(house: House, stream: bool) -> None:
    house.engine.hangs = True
    async with asyncio.timeout(30):
        response = await house.post(PATH, body(stream=stream), **{"x-request-timeout": "0.05"})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    [request] = house.engine.requests
    assert request.deadline == pytest.approx(request.arrival_time + 0.05)
    assert house.engine.aborted == [request.id]


async def test_a_deadline_within_a_stream_is_an_error_frame(house: House) -> None:
    house.engine.pace = 0.05
    endless = body(stream=True, max_tokens=200, ignore_eos=True)
    response = await house.post(PATH, endless, **{"x-request-timeout": "1.5"})
    assert response.status_code == 200
    assert '"code":"deadline_exceeded"' in response.text
    assert "[DONE]" not in response.text


async def test_it_is_not_ready_before_the_adapters_of_its_start_are_there(house: House) -> None:
    house.services.seeding = True
    answer = await house.http.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "starting", "models": {"base": "starting"}})
    house.services.seeding = False
    assert (await house.http.get("/health/ready")).status_code == 200


async def test_without_an_engine_everything_says_503(house: House) -> None:
    house.engine.ready, house.supervisor.state = None, "restarting"
    response = await house.post(PATH, body())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    for path in ("/health", "/health/ready"):
        health = await house.http.get(path)
        assert (health.status_code, health.json()["status"]) == (503, "restarting")
    assert (await house.http.get("/health/live")).status_code == 200
    assert (await house.http.get("/v1/models")).status_code == 200
    assert (await house.http.get("/metrics")).status_code == 200


async def test_health_needs_no_key(house: House) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert (await house.http.get(path, headers={"authorization": ""})).status_code == 200


async def test_draining_lets_streams_end_and_refuses_new_requests(house: House) -> None:
    house.engine.pace = 0.01
    running = asyncio.create_task(house.events(PATH, body()))
    await house.until(lambda: house.engine.requests)
    drain = asyncio.create_task(house.services.drain(60.0))
    await asyncio.sleep(0)
    refused = await house.post(PATH, body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "retry-after" in refused.headers
    ready = await house.http.get("/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "draining", "models": {"base": "draining"}})
    assert (await house.http.get("/health/live")).status_code == 200
    assert (await running)[-1] == "[DONE]"
    await asyncio.wait_for(drain, 30)
    assert house.registry.stopped


async def test_past_the_drain_timeout_the_rest_get_the_error_frame(house: House) -> None:
    house.engine.pace = 0.05
    stream = asyncio.create_task(house.events(PATH, body(max_tokens=250, ignore_eos=True)))
    whole = asyncio.create_task(house.post(PATH, body(max_tokens=250, ignore_eos=True)))
    await house.until(lambda: len(house.engine.requests) == 2 and house.engine.told > 4)
    async with asyncio.timeout(30):
        await house.services.drain(0.05)
    assert (await stream)[-1]["error"]["code"] == "engine_unavailable"
    assert (await whole).status_code == 503
    assert house.services.in_flight == 0


async def test_a_bug_in_a_route_is_a_500_that_says_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("secret")

    house.registry.resolve = broken  # type: ignore[method-assign]
    response = await house.post(PATH, body())
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "secret" in caplog.text
    assert response.headers["x-request-id"]
