"""/api/v1/webhooks, for admins."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.principals import Principal
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.pagination import LAST_ID, row_id
from multiflora_platform.web.request_headers import Unchanged
from multiflora_platform.web.resources import answers, rendered, resource
from multiflora_platform.webhooks.dispatcher import Dispatcher
from multiflora_platform.webhooks.subscriptions import Subscriptions
from multiflora_platform.webhooks.webhook_schemas import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Webhook,
    WebhookPage,
    WebhookPatch,
    WebhookWithSecret,
)

router = APIRouter(tags=["webhooks"])
Admin = Annotated[Principal, Depends(require_admin)]


@router.post("/webhooks", status_code=201, openapi_extra=schema(NewWebhook), responses=answers(WebhookWithSecret, 201))
async def create_webhook(request: Request, principal: Admin) -> Response:
    """Events from now on are POSTed to the URL, signed as Standard Webhooks has it; `secret` is shown this once."""
    made = await _subscriptions(request).create(await read_json(request, NewWebhook), principal.actor)
    return resource(request, made, 201, {"Location": f"/api/v1/webhooks/{made.id}", "Cache-Control": "no-store"})


@router.get("/webhooks", responses=answers(WebhookPage))
async def list_webhooks(request: Request, principal: Admin) -> Response:
    """Oldest first."""
    return rendered(WebhookPage(items=await _subscriptions(request).all(), next_page_token=None))


@router.get("/webhooks/{webhook_id}", responses=answers(Webhook))
async def get_webhook(request: Request, principal: Admin, webhook_id: str) -> Response:
    return resource(request, await _subscriptions(request).one(webhook_id))


@router.patch("/webhooks/{webhook_id}", openapi_extra=schema(WebhookPatch), responses=answers(Webhook))
async def change_webhook(request: Request, principal: Admin, webhook_id: str, expected: Unchanged) -> Response:
    body = await read_json(request, WebhookPatch)
    changed = await _subscriptions(request).amend(webhook_id, body.fields, expected, principal.actor)
    return resource(request, changed)


@router.delete("/webhooks/{webhook_id}", status_code=204)
async def delete_webhook(request: Request, principal: Admin, webhook_id: str, expected: Unchanged) -> Response:
    """With its deliveries, those on their way included."""
    await _subscriptions(request).remove(webhook_id, expected, principal.actor)
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id}:rotate", responses=answers(WebhookWithSecret))
async def rotate_webhook(request: Request, principal: Admin, webhook_id: str, expected: Unchanged) -> Response:
    """A new secret signs from now on."""
    made = await _subscriptions(request).rotate(webhook_id, expected, principal.actor)
    return resource(request, made, headers={"Cache-Control": "no-store"})


@router.post("/webhooks/{webhook_id}:test", responses=answers(Delivery))
async def test_webhook(request: Request, principal: Admin, webhook_id: str) -> Response:
    """Sends a `webhook.test` message now, once, and tells what came back."""
    dispatcher = cast(Dispatcher, request.app.state.services.webhooks.dispatcher)
    return rendered(await dispatcher.test(webhook_id, principal.actor))


@router.get("/webhooks/{webhook_id}/deliveries", responses=answers(DeliveryPage))
async def list_deliveries(
    request: Request,
    principal: Admin,
    webhook_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str | None = None,
) -> Response:
    """Newest first; kept for a week."""
    before = row_id(page_token) if page_token else LAST_ID
    return rendered(await _subscriptions(request).deliveries(webhook_id, before, limit))


@router.post("/webhooks/{webhook_id}/deliveries/{delivery}:redeliver", responses=answers(Delivery))
async def redeliver(
    request: Request, principal: Admin, webhook_id: str, delivery: Annotated[int, Path(ge=1, le=LAST_ID)]
) -> Response:
    """The same message once more, with all its retries."""
    return rendered(await _subscriptions(request).redeliver(webhook_id, delivery, principal.actor))


def _subscriptions(request: Request) -> Subscriptions:
    return cast(Subscriptions, request.app.state.services.webhooks.subscriptions)
