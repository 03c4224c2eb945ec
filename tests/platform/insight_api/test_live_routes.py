"""GET /api/v1/live: what has changed, to whom it is told, and that it is compressed frame by frame."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from tests.platform.gateway.house import ADMIN, TENANT, House

from multiflora_platform.insight.series import Gauges
from multiflora_platform.web.openai_errors import ApiError
from multiflora_platform.web.resources import event_stream

LIVE = "/api/v1/live"
CHAT = "/v1/chat/completions"


@pytest.fixture
def database() -> SimpleNamespace:
    return SimpleNamespace(commits=0)


@pytest.fixture(autouse=True)
def still(house: House, database: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the processes of this machine have is no news here."""
    monkeypatch.setattr(house.services.registry, "database", database)
    monkeypatch.setattr("multiflora_platform.insight.insight.gauges_of", lambda bases: Gauges({}, 0))


async def heard(
    house: House, change: Callable[[], Awaitable[None]], headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """What a follower hears: at first, in a second without news, and after a change."""
    insight = house.services.insight
    asked = asyncio.ensure_future(house.http.get(LIVE, headers=headers))
    async with asyncio.timeout(60):
        while not insight._followers:  # noqa: ASYNC110 - the request is on its way to it
            await asyncio.sleep(0.001)
    insight._end_second(at_drift=False)
    await asyncio.sleep(0)
    await change()
    insight._end_second(at_drift=False)
    insight.stop()
    answer = await asked
    insight._is_ending = False
    assert answer.headers["content-encoding"] == "gzip"
    return [json.loads(frame.removeprefix("data: ")) for frame in answer.text.strip().split("\n\n")]


async def ask(house: House, key: str | None = None) -> None:
    body = {"model": "sql", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {key}"} if key else None
    assert (await house.http.post(CHAT, json=body, headers=headers)).status_code == 200


async def test_an_admin_hears_what_kinds_of_things_changed_and_each_second_s_point(house: House) -> None:
    first, quiet, busy = await heard(house, lambda: ask(house))
    assert set(first["changed"]) == {"records", "adapters", "requests", "engines", "alerts"}
    assert set(quiet) == {"point"}
    assert set(busy["changed"]) == {"requests"}
    assert busy["point"]["requests"] == 1
    assert busy["changed"]["requests"] != first["changed"]["requests"]


async def test_a_change_of_the_database_of_an_engine_and_of_the_alerts_is_told(
    house: House, database: SimpleNamespace
) -> None:
    async def change() -> None:
        database.commits += 1
        house.registry.num_snapshots += 1
        house.services.insight.note_end("sql", ApiError(503, "adapter_unavailable", "its file vanished"))
        house.supervisor.state = "restarting"

    *_, changed = await heard(house, change)
    assert set(changed["changed"]) == {"records", "adapters", "alerts", "engines"}


async def test_a_tenant_hears_of_its_own_requests_alone(house: House) -> None:
    key = {"Authorization": f"Bearer {TENANT}"}
    first, own = await heard(house, lambda: ask(house, TENANT), key)
    assert (set(first["changed"]), set(own["changed"])) == ({"records", "adapters", "requests"}, {"requests"})
    before = house.services.insight.requests.course("acme").change
    await heard(house, lambda: ask(house), key)
    assert house.services.insight.requests.course("acme").change == before


async def test_a_key_of_any_scope_may_follow_and_none_without(house: House) -> None:
    keys = house.services.keys._principals
    keys["mf-metrics"] = replace(keys[ADMIN], scopes=frozenset({"metrics"}))
    assert await heard(house, lambda: ask(house), {"Authorization": "Bearer mf-metrics"})
    assert (await house.http.get(LIVE, headers={"Authorization": "Bearer mf-wrong"})).status_code == 401


async def test_each_frame_can_be_read_when_it_has_come() -> None:
    async def frames() -> Any:
        for number in range(3):
            yield b"data: %d\n\n" % number

    request = Request({"type": "http", "headers": [(b"accept-encoding", b"gzip")]})
    reader = zlib.decompressobj(wbits=31)
    read = [reader.decompress(part) async for part in event_stream(request, frames()).body_iterator]
    assert read[:3] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
