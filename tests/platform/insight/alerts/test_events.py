"""Alerts become events, each once and in order, whatever the database does; webhooks hear of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.registry.house import House
from tests.platform.webhooks.conftest import Receiver

from multiflora_platform.insight.alerts.alerts import AlertChange
from multiflora_platform.insight.alerts.events import AlertEvents
from multiflora_platform.insight.views.activity import Alert
from multiflora_platform.web.problems import Unavailable

SLOW = Alert("slow", "warning", "Slow", "It is slow.", "Wait.", 100.0, "/ui/")
DEAD = Alert("dead", "error", "Dead", "It is dead.", "Look.", 101.0, "/ui/settings")


async def told(house: House) -> list[tuple[str, str]]:
    items = (await house.admin.get("/events")).json()["items"]
    return [(event["type"], event["payload"]["alert"]) for event in items if event["type"].startswith("alert.")]


async def test_a_webhook_is_told_of_an_alert_as_it_comes_and_as_it_goes(house: House, receiver: Receiver) -> None:
    created = await house.admin.post("/webhooks", json={"url": receiver.url, "events": ["alert.*"]})
    assert created.status_code == 201, created.text
    house.webhooks.dispatcher.start()
    events = AlertEvents(house.registry.database, "one:8000")
    events.note([AlertChange(True, SLOW, 130.0)])
    await receiver.until(1)
    events.note([AlertChange(False, SLOW, 160.0)])
    await receiver.until(2)
    assert [body["type"] for body in receiver.bodies] == ["alert.raised", "alert.cleared"]
    payload: dict[str, Any] = receiver.bodies[0]["data"]["payload"]
    assert (payload["alert"], payload["next_step"], payload["since"]) == ("slow", "Wait.", 100.0)
    assert (payload["severity"], payload["server"]) == ("warning", "one:8000")


async def test_what_the_database_cannot_take_is_written_when_it_can(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, write = AlertEvents(house.registry.database, "one:8000"), house.registry.database.write

    async def away(actor: str, work: Any) -> None:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(house.registry.database, "write", away)
    events.note([AlertChange(True, SLOW, 130.0)])
    await events.close()
    events.note([AlertChange(False, SLOW, 131.0), AlertChange(True, DEAD, 131.0)])
    await events.close()
    assert await told(house) == []
    monkeypatch.setattr(house.registry.database, "write", write)
    events.note([])
    await events.close()
    assert await told(house) == [("alert.raised", "slow"), ("alert.cleared", "slow"), ("alert.raised", "dead")]


async def test_a_server_that_was_killed_leaves_no_alert_raised(house: House) -> None:
    killed, other = (AlertEvents(house.registry.database, server) for server in ("one:8000", "two:8000"))
    killed.note([AlertChange(True, SLOW, 130.0), AlertChange(True, DEAD, 130.0), AlertChange(False, DEAD, 140.0)])
    await killed.close()
    other.note([AlertChange(True, DEAD, 150.0)])
    await other.close()
    before = await told(house)
    for _ in range(2):
        anew = AlertEvents(house.registry.database, "one:8000")
        await anew.clear_left()
        await anew.close()
    assert (await told(house))[len(before) :] == [("alert.cleared", "slow")], "once, and none of the other server's"
