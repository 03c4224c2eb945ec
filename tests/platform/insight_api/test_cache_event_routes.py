"""GET /api/v1/cache/events: pages after a cursor, and the live feed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.house import House

from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheReply

PATH = "/api/v1/cache/events"
A, B, C = (bytes([letter]) * 32 for letter in b"abc")
HELD = CacheReply(0, held=[CacheChange(A + B, parent=C[:8], adapter="d" * 64, owner="t")])


async def get(house: House, status: int = 200, **query: Any) -> Any:
    answer = await house.http.get(PATH, params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


def tell(house: House, *changes: CacheChange) -> None:
    house.services.insight.cache_feeds.of(house.services.engine.replicas[0]).changed(list(changes))
    house.engine.cache_followers.count += len(changes)


async def test_a_cursor_goes_on_and_a_snapshot_begins_with_all(house: House) -> None:
    house.engine.cache_reply = HELD
    now = await get(house)
    assert (now["items"], now["is_continued"]) == ([], True)
    tell(house, CacheChange(C), CacheChange(A + B, is_removal=True))
    page = await get(house, cursor=now["next_cursor"], limit=1)
    first = now["next_cursor"] + 1
    assert page == {
        "items": [
            {
                "seq": first,
                "type": "stored",
                "hashes": [C.hex()],
                "parent": None,
                "tokens": 16,
                "adapter_digest": None,
                "owner": None,
            }
        ],
        "next_cursor": first,
        "is_continued": True,
    }
    (removed,) = (await get(house, cursor=first))["items"]
    assert (removed["type"], removed["hashes"], removed["tokens"]) == ("removed", [A.hex(), B.hex()], 32)
    house.engine.cache_reply = replace(HELD, at=2)
    cleared, *behind = (snapshot := await get(house, snapshot=True))["items"]
    assert (cleared["type"], snapshot["is_continued"], snapshot["next_cursor"]) == ("cleared", False, first + 1)
    (held,) = [event for event in behind if event["adapter_digest"]]
    assert (held["hashes"], held["parent"], held["owner"]) == ([A.hex(), B.hex()], C[:8].hex(), "t")


async def test_a_cursor_that_is_too_old_is_told_and_gets_all(house: House) -> None:
    house.engine.cache_reply = HELD
    for cursor in (0, 1, 2**53):
        page = await get(house, cursor=cursor)
        assert (page["items"][0]["type"], page["is_continued"]) == ("cleared", False)
    assert (await get(house, cursor=page["next_cursor"]))["is_continued"]


@pytest.mark.parametrize("query", [{"cursor": -1}, {"cursor": "x"}, {"limit": 0}, {"snapshot": "perhaps"}])
async def test_bad_values_are_refused(house: House, query: dict[str, Any]) -> None:
    await get(house, 400, **query)


async def test_the_live_feed_has_ids_outside_of_snapshots_and_a_client_that_comes_again_goes_on(house: House) -> None:
    house.engine.cache_reply = HELD
    feed = house.services.insight.cache_feeds.of(house.services.engine.replicas[0])

    async def turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def heard(**headers: str) -> list[dict[str, str]]:
        """What two changes make of a feed that begins with all."""
        asked = asyncio.ensure_future(
            house.http.get(PATH, params={"snapshot": True}, headers={"Accept": "text/event-stream", **headers})
        )
        async with asyncio.timeout(60):
            while not feed._listeners:  # noqa: ASYNC110 - the request is on its way to it
                await asyncio.sleep(0.001)
        await turns()
        tell(house, CacheChange(C))
        await turns()
        feed.stop()
        frames = (await asked).text.strip().split("\n\n")
        feed._is_stopped = False
        parts = [dict(line.split(": ", 1) for line in frame.splitlines()) for frame in frames]
        return [part for part in parts if "" not in part]

    events = await heard()
    assert [part.get("event") for part in events] == ["cleared", "stored", None, "stored"]
    assert ["id" in part for part in events] == [False, False, True, True]
    assert json.loads(events[3]["data"])["hashes"] == [C.hex()]
    again = await heard(**{"Last-Event-ID": events[3]["id"]})
    assert [part.get("event") for part in again] == ["stored"]
    answer = await house.http.get(PATH, headers={"Accept": "text/event-stream", "Last-Event-ID": "x"})
    assert answer.status_code == 400
