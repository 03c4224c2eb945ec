"""Webhooks as rows: made, changed, deleted, listed, with their deliveries. Sends nothing."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select

from multiflora_platform.auth.secret import Secret
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import EventRow, WebhookDeliveryRow, WebhookRow
from multiflora_platform.web.etags import Precondition, etag_of
from multiflora_platform.web.pagination import encode_token
from multiflora_platform.webhooks.destinations import Destinations
from multiflora_platform.webhooks.signing import shown, signing_key
from multiflora_platform.webhooks.webhook_problems import WebhookNotFound
from multiflora_platform.webhooks.webhook_schemas import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Webhook,
    WebhookWithSecret,
)


class Subscriptions:
    def __init__(self, database: Database, secret: Secret, destinations: Destinations) -> None:
        self._database = database
        self._secret = secret
        self._destinations = destinations

    async def create(self, body: NewWebhook, actor: str) -> WebhookWithSecret:
        """It is told of what happens from now on. Raises TargetRefused."""
        await self._destinations.find(body.url)

        async def work(change: Change) -> WebhookWithSecret:
            row = WebhookRow(
                id=f"wh_{secrets.token_hex(8)}",
                url=body.url,
                events=list(body.events),
                description=body.description,
                generation=1,
                cursor=await change.session.scalar(select(func.coalesce(func.max(EventRow.id), 0))),
                disabled=False,
                created_by=change.actor,
                created_at=change.now,
            )
            change.session.add(row)
            await change.session.flush()
            change.record("webhook.created", row.id, webhook=row.id, events=row.events)
            return self._with_secret(row)

        return await self._database.write(actor, work)

    async def amend(self, webhook_id: str, fields: dict[str, Any], precondition: Precondition, actor: str) -> Webhook:
        """fields: of WebhookPatch. Raises WebhookNotFound, TargetRefused."""
        if "url" in fields:
            await self._destinations.find(fields["url"])

        async def work(change: Change) -> Webhook:
            row = await _require(change, webhook_id, precondition)
            if row.disabled and fields.get("disabled") is False:
                # What happened while it was disabled is not sent later.
                row.cursor = await change.session.scalar(select(func.coalesce(func.max(EventRow.id), 0))) or 0
            for field, value in fields.items():
                setattr(row, field, value)
            change.record("webhook.updated", webhook_id, webhook=webhook_id, fields=sorted(fields))
            return _view(row)

        return await self._database.write(actor, work)

    async def rotate(self, webhook_id: str, precondition: Precondition, actor: str) -> WebhookWithSecret:
        """The old secret signs nothing from now on. Raises WebhookNotFound."""

        async def work(change: Change) -> WebhookWithSecret:
            row = await _require(change, webhook_id, precondition)
            row.generation += 1
            change.record("webhook.rotated", webhook_id, webhook=webhook_id)
            return self._with_secret(row)

        return await self._database.write(actor, work)

    async def remove(self, webhook_id: str, precondition: Precondition, actor: str) -> None:
        """With its deliveries. Raises WebhookNotFound."""

        async def work(change: Change) -> None:
            row = await _require(change, webhook_id, precondition)
            await change.session.execute(delete(WebhookDeliveryRow).where(WebhookDeliveryRow.webhook_id == webhook_id))
            await change.session.delete(row)
            change.record("webhook.deleted", webhook_id, webhook=webhook_id)

        await self._database.write(actor, work)

    async def all(self) -> list[Webhook]:
        async with self._database.read() as session:
            return [
                _view(row)
                for row in await session.scalars(select(WebhookRow).order_by(WebhookRow.created_at, WebhookRow.id))
            ]

    async def one(self, webhook_id: str) -> Webhook:
        """Raises WebhookNotFound."""
        async with self._database.read() as session:
            row = await session.get(WebhookRow, webhook_id)
        if row is None:
            raise _no_webhook(webhook_id)
        return _view(row)

    async def deliveries(self, webhook_id: str, before: int, limit: int) -> DeliveryPage:
        """Newest first, ids below `before`. Raises WebhookNotFound."""
        await self.one(webhook_id)
        query = select(WebhookDeliveryRow).where(
            WebhookDeliveryRow.webhook_id == webhook_id, WebhookDeliveryRow.id < before
        )
        async with self._database.read() as session:
            rows = list(await session.scalars(query.order_by(WebhookDeliveryRow.id.desc()).limit(limit + 1)))
        token = encode_token(str(rows[limit - 1].id)) if len(rows) > limit else None
        return DeliveryPage(items=[delivery_view(row) for row in rows[:limit]], next_page_token=token)

    async def redeliver(self, webhook_id: str, delivery_id: int, actor: str) -> Delivery:
        """Once more and at once, with all its retries, whatever became of it. Raises WebhookNotFound."""

        async def work(change: Change) -> Delivery:
            row = await change.session.get(WebhookDeliveryRow, delivery_id)
            if row is None or row.webhook_id != webhook_id:
                raise WebhookNotFound(f"Webhook {webhook_id[:40]!r} has no delivery {delivery_id}.")
            row.state, row.attempts, row.next_attempt_at = "pending", 0, change.now - timedelta(seconds=1)
            change.record("webhook.redelivered", webhook_id, webhook=webhook_id, delivery=delivery_id)
            return delivery_view(row)

        return await self._database.write(actor, work)

    def _with_secret(self, row: WebhookRow) -> WebhookWithSecret:
        secret = shown(signing_key(self._secret, row.id, row.generation))
        return WebhookWithSecret(secret=secret, **_fields(row))


def delivery_view(row: WebhookDeliveryRow) -> Delivery:
    fields = ("id", "message_id", "type", "attempts", "last_status", "last_error")
    shown: dict[str, Any] = {field: getattr(row, field) for field in fields}
    return Delivery(
        state=row.state,  # type: ignore[arg-type]  # only this package writes it
        created_at=row.created_at.isoformat(),
        next_attempt_at=row.next_attempt_at.isoformat() if row.state == "pending" else None,
        delivered_at=row.delivered_at.isoformat() if row.delivered_at else None,
        **shown,
    )


async def _require(change: Change, webhook_id: str, precondition: Precondition) -> WebhookRow:
    row = await change.session.get(WebhookRow, webhook_id)
    if row is None:
        raise _no_webhook(webhook_id)
    precondition.check(f"Webhook {webhook_id}", _view(row).etag)
    return row


def _no_webhook(webhook_id: str) -> WebhookNotFound:
    return WebhookNotFound(f"There is no webhook {webhook_id[:40]!r}.")


def _fields(row: WebhookRow) -> dict[str, Any]:
    fields = ("id", "url", "events", "description", "disabled", "created_by")
    shown = {"created_at": row.created_at.isoformat(), **{field: getattr(row, field) for field in fields}}
    return {**shown, "etag": etag_of({**shown, "generation": row.generation})}


def _view(row: WebhookRow) -> Webhook:
    return Webhook(**_fields(row))
