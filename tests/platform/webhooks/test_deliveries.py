"""Events on their way: signed, once each, tried again, logged, across restarts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from tests.platform.registry.house import House, OpenHouse
from tests.platform.webhooks.conftest import Receiver

from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import WebhookDeliveryRow
from multiflora_platform.webhooks import dispatcher, sender


async def subscribe(house: House, receiver: Receiver, *events: str) -> dict[str, Any]:
    response = await house.admin.post("/webhooks", json={"url": receiver.url, "events": list(events) or ["*"]})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def log(house: House, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await house.admin.get(f"/webhooks/{webhook['id']}/deliveries")).json()["items"]
    return items


async def settled(house: House, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    """The log, once every delivery in it has the outcome of an attempt, and none is under way."""
    async with asyncio.timeout(30):
        while True:
            # Before the log is read: what ends meanwhile is not in it yet.
            is_idle = not house.webhooks.dispatcher._running
            items = await log(house, webhook)
            if is_idle and items and all(item["last_status"] or item["last_error"] for item in items):
                return items
            await asyncio.sleep(0.01)


async def put_off(house: House, pause: timedelta) -> None:
    async def work(change: Change) -> None:
        await change.session.execute(update(WebhookDeliveryRow).values(next_attempt_at=change.now + pause))

    await house.registry.database.write("test", work)


async def make_all_due(house: House) -> None:
    await put_off(house, timedelta())


def verify(secret: str, headers: dict[str, str], body: bytes) -> None:
    """As the receivers' libraries of Standard Webhooks do it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60


async def test_an_event_arrives_signed(house: House, receiver: Receiver) -> None:
    await house.adapter("before")
    webhook = await subscribe(house, receiver, "adapter.*")
    house.webhooks.dispatcher.start()
    await house.adapter("after")
    await receiver.until(1)
    headers, body = receiver.received[0]
    verify(webhook["secret"], headers, body)
    message = receiver.bodies[0]
    assert message["type"] == "adapter.created"
    assert message["data"]["adapter"] == "after"
    assert headers["webhook-id"] == f"evt_{message['data']['id']}"
    assert headers["host"] == receiver.url.split("/")[2]
    (delivery,) = await settled(house, webhook)
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("delivered", 1, 200)
    assert len(receiver.received) == 1, "neither what was before it, nor what it did not ask for"


async def test_a_receiver_that_fails_is_asked_again_with_the_same_id(house: House, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 200]
    webhook = await subscribe(house, receiver, "adapter.created")
    house.webhooks.dispatcher.start()
    await house.adapter("a")
    for attempts in (1, 2):
        await receiver.until(attempts)
        (delivery,) = await settled(house, webhook)
        assert (delivery["state"], delivery["attempts"]) == ("pending", attempts)
        assert delivery["last_error"].startswith("it answered")
        assert delivery["next_attempt_at"] is not None
        await make_all_due(house)
    await receiver.until(3)
    (delivery,) = await settled(house, webhook)
    assert (delivery["state"], delivery["attempts"], delivery["last_error"]) == ("delivered", 3, None)
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1


async def test_in_the_end_it_has_failed_and_can_be_sent_once_more(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "BACKOFF", (0.0,))
    receiver.statuses = [500, 500, 200]
    webhook = await subscribe(house, receiver, "adapter.created")
    house.webhooks.dispatcher.start()
    await house.adapter("a")
    await receiver.until(2)
    (delivery,) = await settled(house, webhook)
    assert (delivery["state"], delivery["attempts"], delivery["next_attempt_at"]) == ("failed", 2, None)
    again = await house.admin.post(f"/webhooks/{webhook['id']}/deliveries/{delivery['id']}:redeliver")
    assert again.json()["state"] == "pending"
    await receiver.until(3)
    assert (await settled(house, webhook))[0]["state"] == "delivered"
    assert (await house.admin.post(f"/webhooks/{webhook['id']}/deliveries/999:redeliver")).status_code == 404


async def test_a_dispatcher_rests_until_an_attempt_is_due_or_something_is_committed(
    house: House, receiver: Receiver
) -> None:
    receiver.statuses = [500]
    webhook = await subscribe(house, receiver, "adapter.created")
    turn = house.webhooks.dispatcher.turn
    assert await turn() is None, "no delivery waits"
    await house.adapter("a")
    due = await turn()
    assert due is not None
    assert due <= 0
    await settled(house, webhook)
    pause = await turn()
    assert pause is not None
    assert 0 < pause < 1.1 * dispatcher.BACKOFF[0]
    await put_off(house, timedelta(days=1))
    assert await turn() == 60, "a dispatcher that ends may leave an earlier one"
    await house.admin.patch(f"/webhooks/{webhook['id']}", json={"disabled": True})
    assert await turn() is None


async def test_nobody_listens(house: House, receiver: Receiver) -> None:
    receiver.url = "http://127.0.0.1:9/"
    webhook = await subscribe(house, receiver, "adapter.created")
    house.webhooks.dispatcher.start()
    await house.adapter("a")
    (delivery,) = await settled(house, webhook)
    assert (delivery["state"], delivery["last_status"]) == ("pending", None)
    assert "ConnectError" in delivery["last_error"]


async def test_a_restart_loses_and_doubles_nothing(open_house: OpenHouse, receiver: Receiver) -> None:
    house = await open_house()
    webhook = await subscribe(house, receiver, "adapter.created")
    for name in "ab":
        await house.adapter(name)
    await house.close()
    house = await open_house()
    await house.adapter("c")
    house.webhooks.dispatcher.start()
    await receiver.until(3)
    await settled(house, webhook)
    await house.close()
    house = await open_house()
    house.webhooks.dispatcher.start()
    await house.adapter("d")
    await receiver.until(4)
    await settled(house, webhook)
    assert sorted(body["data"]["adapter"] for body in receiver.bodies) == list("abcd")


async def test_the_test_call_tells_what_came_back(house: House, receiver: Receiver) -> None:
    receiver.statuses = [200, 503]
    webhook = await subscribe(house, receiver)
    first = (await house.admin.post(f"/webhooks/{webhook['id']}:test")).json()
    assert (first["type"], first["state"], first["last_status"]) == ("webhook.test", "delivered", 200)
    verify(webhook["secret"], *receiver.received[0])
    second = (await house.admin.post(f"/webhooks/{webhook['id']}:test")).json()
    assert (second["state"], second["last_status"]) == ("failed", 503)
    assert (await house.admin.post("/webhooks/wh_none:test")).status_code == 404


async def test_a_rotated_secret_signs_at_once(house: House, receiver: Receiver) -> None:
    webhook = await subscribe(house, receiver)
    rotated = (await house.admin.post(f"/webhooks/{webhook['id']}:rotate")).json()
    assert rotated["secret"] != webhook["secret"]
    await house.admin.post(f"/webhooks/{webhook['id']}:test")
    verify(rotated["secret"], *receiver.received[0])


async def test_who_is_gone_is_switched_off(house: House, receiver: Receiver) -> None:
    receiver.statuses = [410]
    webhook = await subscribe(house, receiver, "adapter.created")
    house.webhooks.dispatcher.start()
    await house.adapter("a")
    await receiver.until(1)
    await settled(house, webhook)
    shown = (await house.admin.get(f"/webhooks/{webhook['id']}")).json()
    assert shown["disabled"] is True
    assert "secret" not in shown
    await house.adapter("b")
    await make_all_due(house)
    await asyncio.sleep(0.1)
    assert len(receiver.received) == 1
    receiver.statuses = [200]
    await house.admin.patch(f"/webhooks/{webhook['id']}", json={"disabled": False})
    await house.adapter("c")
    await receiver.until(3)
    await settled(house, webhook)
    assert {body["data"]["adapter"] for body in receiver.bodies} == {"a", "c"}


async def test_deleting_takes_the_log_along(house: House, receiver: Receiver) -> None:
    webhook = await subscribe(house, receiver)
    await house.admin.post(f"/webhooks/{webhook['id']}:test")
    assert (await house.admin.delete(f"/webhooks/{webhook['id']}")).status_code == 204
    assert (await house.admin.get(f"/webhooks/{webhook['id']}/deliveries")).status_code == 404
    assert (await house.admin.get("/webhooks")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"url": "http://10.0.0.1/"}, 403),
        ({"url": "nonsense"}, 403),
        ({"url": "http://127.0.0.1/", "events": []}, 400),
        ({"url": "http://127.0.0.1/", "events": ["Adapter Created"]}, 400),
        ({"url": "http://127.0.0.1/", "secret": "mine"}, 400),
    ],
)
async def test_what_cannot_be_subscribed(house: House, body: dict[str, Any], status: int) -> None:
    response = await house.admin.post("/webhooks", json=body)
    assert response.status_code == status
    webhook = (await house.admin.post("/webhooks", json={"url": "http://127.0.0.1/"})).json()
    if "url" in body:
        assert (await house.admin.patch(f"/webhooks/{webhook['id']}", json=body)).status_code == status


@pytest.mark.parametrize("drip", [b"", b"x"])
async def test_a_receiver_that_never_comes_to_an_end_is_left(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    """Silent, or with a byte of its head now and then, which no timeout of a single read notices."""
    monkeypatch.setattr(sender, "ATTEMPT_SECONDS", 0.3)
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            writer.write(drip)
            await asyncio.sleep(0.02)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        webhook = await subscribe(house, receiver)
        async with asyncio.timeout(30):
            tried = (await house.admin.post(f"/webhooks/{webhook['id']}:test")).json()
            await left.wait()  # the loop must not end before the receiver has
    assert (tried["state"], tried["last_error"]) == ("failed", "it did not answer within 0.3 seconds")


async def test_what_a_server_that_stops_cuts_off_is_due_at_once_and_has_not_been_tried(
    open_house: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hang(*_: object) -> sender.Attempt:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("the event is never set")

    house = await open_house()
    monkeypatch.setattr(sender.Sender, "send", hang)
    webhook = await subscribe(house, receiver, "adapter.*")
    house.webhooks.dispatcher.start()
    await house.adapter("a")
    async with asyncio.timeout(30):
        await begun.wait()
        await house.close()
    house = await open_house()
    (delivery,) = await log(house, webhook)
    assert (delivery["state"], delivery["attempts"]) == ("pending", 0)
    assert datetime.fromisoformat(delivery["next_attempt_at"]) <= datetime.now(UTC)


async def test_an_attempt_that_ends_after_a_redelivery_was_asked_for_does_not_put_it_off(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def send(*_: object) -> sender.Attempt:
        begun.set()
        await go_on.wait()
        return sender.Attempt(500, "it answered 500")

    monkeypatch.setattr(sender.Sender, "send", send)
    webhook = await subscribe(house, receiver, "adapter.*")
    await house.adapter("a")
    await house.webhooks.dispatcher.turn()
    async with asyncio.timeout(30):
        await begun.wait()
        (delivery,) = await log(house, webhook)
        asked = await house.admin.post(f"/webhooks/{webhook['id']}/deliveries/{delivery['id']}:redeliver")
        go_on.set()
        await asyncio.gather(*house.webhooks.dispatcher._running)
    assert await log(house, webhook) == [asked.json()]
