"""Turns events into deliveries, and sees each delivery through its attempts.

Which events became deliveries is a cursor of the webhook, moved in the transaction that makes them: none is left out
and none is doubled, whenever the server ends. An attempt that a crash cuts off is made again
by the first dispatcher that finds its lease expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from sqlalchemy import Select, delete, func, select

from multiflora_platform.auth.secret import Secret
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import EventRow, WebhookDeliveryRow, WebhookRow
from multiflora_platform.web.problems import InsufficientStorage, Unavailable
from multiflora_platform.webhooks.sender import (
    GONE,
    Attempt,
    Sender,
    SignedMessage,
)
from multiflora_platform.webhooks.signing import signing_key
from multiflora_platform.webhooks.subscriptions import delivery_view
from multiflora_platform.webhooks.webhook_problems import WebhookNotFound
from multiflora_platform.webhooks.webhook_schemas import Delivery

_log = logging.getLogger(__name__)
# Seconds after each failed attempt; after the last one it has failed. Those of Standard Webhooks.
BACKOFF = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
AT_ONCE = 16
# While a look is not possible: the database is away, or as many attempts run as may.
_PAUSE_SECONDS = 1.0
KEPT = timedelta(days=7)
# Longer than an attempt may take, so that a live dispatcher is never overtaken.
_LEASE = timedelta(seconds=60)
_BATCH = 500
_ACTOR = "system/webhooks"


class Dispatcher:
    """`start` it, `close` it; `test` sends one message now."""

    def __init__(self, database: Database, secret: Secret, sender: Sender) -> None:
        self._database = database
        self._secret = secret
        self._sender = sender
        # Attempts under way, AT_ONCE at most, and the delivery of each as it was claimed.
        self._running: dict[asyncio.Task[None], WebhookDeliveryRow] = {}
        self._closing = False
        self._loop: asyncio.Task[None] | None = None
        # When old deliveries were last deleted.
        self._cleaned = datetime.min.replace(tzinfo=UTC)

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Attempts that run are cut off, do not count, and are due at once, for the next server."""
        self._closing = True
        if self._loop is not None:
            # Not cancelled: what is being claimed would wait for the end of its lease.
            await self._database.wake()
            await asyncio.gather(self._loop, return_exceptions=True)
        cut_off = dict(self._running)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        if cut_off:
            with contextlib.suppress(Unavailable, InsufficientStorage):
                await self._database.write(_ACTOR, lambda change: _give_back(change, cut_off.values()))
        await self._sender.close()

    async def test(self, webhook_id: str, actor: str) -> Delivery:
        """A `webhook.test` message, tried once, its outcome in the log like any other's. Raises WebhookNotFound."""

        async def begin(change: Change) -> tuple[WebhookRow, WebhookDeliveryRow]:
            webhook = await change.session.get(WebhookRow, webhook_id)
            if webhook is None:
                raise WebhookNotFound(f"There is no webhook {webhook_id[:40]!r}.")
            data = {"webhook": webhook_id, "at": change.now.isoformat()}
            delivery = _delivery(webhook, f"test_{secrets.token_hex(8)}", "webhook.test", data, change.now)
            # As after the last attempt: a test is not retried.
            delivery.attempts, delivery.next_attempt_at = len(BACKOFF) + 1, change.now + _LEASE
            change.session.add(delivery)
            await change.session.flush()
            change.record("webhook.tested", webhook_id, webhook=webhook_id)
            return webhook, delivery

        webhook, delivery = await self._database.write(actor, begin)
        return await self._attempt(webhook, delivery)

    async def turn(self) -> float | None:
        """Make new events deliveries, and send those that are due in the background. Returns the seconds after which
        there may be more to do; None: not before something is committed."""
        if await self._has_new_events():
            await self._database.write(_ACTOR, self._fan_out)
        if len(self._running) >= AT_ONCE:
            return _PAUSE_SECONDS
        pause = await self._pause()
        if pause is not None and pause <= 0:
            for webhook, delivery in await self._database.write(_ACTOR, self._claim):
                task = asyncio.create_task(self._deliver(webhook, delivery))
                self._running[task] = delivery
                task.add_done_callback(self._running.pop)
        return pause

    async def _run(self) -> None:
        while not self._closing:
            seen = self._database.commits
            pause: float | None = _PAUSE_SECONDS
            try:
                pause = await self.turn()
            except Exception as error:
                _log.warning("webhooks could not be looked after, and will be in a moment: %s", error)
            await self._database.has_news(seen, pause)

    async def _has_new_events(self) -> bool:
        async with self._database.read() as session:
            oldest = await session.scalar(select(func.min(WebhookRow.cursor)).where(WebhookRow.disabled.is_(False)))
            newest = await session.scalar(select(func.max(EventRow.id))) if oldest is not None else None
        return oldest is not None and newest is not None and newest > oldest

    async def _fan_out(self, change: Change) -> None:
        webhooks = await change.session.scalars(select(WebhookRow).where(WebhookRow.disabled.is_(False)))
        for webhook in webhooks:
            query = select(EventRow).where(EventRow.id > webhook.cursor).order_by(EventRow.id).limit(_BATCH)
            for event in await change.session.scalars(query):
                webhook.cursor = event.id
                if any(fnmatchcase(event.type, pattern) for pattern in webhook.events):
                    data = {"id": event.id, "type": event.type, "adapter": event.adapter, "payload": event.payload}
                    data["at"] = event.at.isoformat()
                    change.session.add(_delivery(webhook, f"evt_{event.id}", event.type, data, change.now))
        # Only here, in a write that happens anyway: an idle server leaves the disk alone.
        if change.now - self._cleaned > timedelta(hours=1):
            self._cleaned = change.now
            old = WebhookDeliveryRow.created_at < change.now - KEPT
            await change.session.execute(delete(WebhookDeliveryRow).where(old, WebhookDeliveryRow.state != "pending"))

    async def _pause(self) -> float | None:
        """Seconds until the next attempt is due; None: no delivery waits for one. A lease at most: a dispatcher that
        ends may leave an earlier attempt than the one that was seen here."""
        async with self._database.read() as session:
            first = await session.scalar(_pending().with_only_columns(WebhookDeliveryRow.next_attempt_at).limit(1))
        return None if first is None else min(first - datetime.now(UTC), _LEASE).total_seconds()

    async def _claim(self, change: Change) -> Sequence[tuple[WebhookRow, WebhookDeliveryRow]]:
        """Take due deliveries; no other dispatcher sends them while the lease lasts."""
        due = _pending().where(WebhookDeliveryRow.next_attempt_at <= change.now)
        rows = list(await change.session.scalars(due.limit(AT_ONCE - len(self._running))))
        claimed = []
        for row in rows:
            row.attempts += 1
            row.next_attempt_at = change.now + _LEASE
            webhook = await change.session.get(WebhookRow, row.webhook_id)
            assert webhook is not None, "a webhook's deliveries go with it"
            claimed.append((webhook, row))
        return claimed

    async def _deliver(self, webhook: WebhookRow, delivery: WebhookDeliveryRow) -> None:
        try:
            await self._attempt(webhook, delivery)
        except Exception as error:
            _log.warning("the outcome of %s could not be noted: %s", delivery.message_id, error)

    async def _attempt(self, webhook: WebhookRow, delivery: WebhookDeliveryRow) -> Delivery:
        key = signing_key(self._secret, webhook.id, webhook.generation)
        attempt = await self._sender.send(SignedMessage(delivery.message_id, webhook.url, key, delivery.payload))

        async def conclude(change: Change) -> Delivery:
            row = await change.session.get(WebhookDeliveryRow, delivery.id)
            if row is None:  # deleted with its webhook meanwhile
                return delivery_view(delivery)
            if _is_held(row, delivery):
                _note(row, attempt, change.now)
            if attempt.status == GONE and not delivery.message_id.startswith("test_"):
                await _switch_off(change, webhook.id)
            return delivery_view(row)

        return await self._database.write(_ACTOR, conclude)


def _pending() -> Select[WebhookDeliveryRow]:
    """Deliveries that wait for an attempt, or whose attempt is under way, in the order in which they are due."""
    enabled = select(WebhookRow.id).where(WebhookRow.disabled.is_(False))
    return (
        select(WebhookDeliveryRow)
        .where(WebhookDeliveryRow.state == "pending", WebhookDeliveryRow.webhook_id.in_(enabled))
        .order_by(WebhookDeliveryRow.next_attempt_at, WebhookDeliveryRow.id)
    )


def _delivery(
    webhook: WebhookRow, message_id: str, type: str, data: Mapping[str, object], now: datetime
) -> WebhookDeliveryRow:
    return WebhookDeliveryRow(
        webhook_id=webhook.id,
        message_id=message_id,
        type=type,
        payload={"type": type, "timestamp": data["at"], "data": data},
        state="pending",
        attempts=0,
        next_attempt_at=now,
        created_at=now,
    )


def _is_held(row: WebhookDeliveryRow, claimed: WebhookDeliveryRow) -> bool:
    """False: another dispatcher has taken it over, or a client has it sent once more; that outcome counts."""
    return row.state == "pending" and row.next_attempt_at == claimed.next_attempt_at


async def _give_back(change: Change, deliveries: Iterable[WebhookDeliveryRow]) -> None:
    for delivery in deliveries:
        row = await change.session.get(WebhookDeliveryRow, delivery.id)
        if row is not None and _is_held(row, delivery):
            row.attempts, row.next_attempt_at = row.attempts - 1, change.now


def _note(row: WebhookDeliveryRow, attempt: Attempt, now: datetime) -> None:
    row.last_status, row.last_error = attempt.status, attempt.error
    if attempt.ok:
        row.state, row.delivered_at = "delivered", now
    elif row.attempts > len(BACKOFF):
        row.state = "failed"
    else:
        row.next_attempt_at = now + timedelta(seconds=BACKOFF[row.attempts - 1] * random.uniform(0.9, 1.1))


async def _switch_off(change: Change, webhook_id: str) -> None:
    """The receiver answers 410: it wants no more messages."""
    webhook = await change.session.get(WebhookRow, webhook_id)
    if webhook is not None and not webhook.disabled:
        webhook.disabled = True
        change.record("webhook.updated", webhook_id, webhook=webhook_id, fields=["disabled"], reason="410 Gone")
