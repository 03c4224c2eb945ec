"""/api/v1/replicas, /events, /audit: what admins watch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.registry.routes.access import registry_of
from multiflora_platform.registry.schemas.answers import AuditPage, EventPage, ReplicaPage
from multiflora_platform.storage.outbox import audit_page
from multiflora_platform.web.pagination import encode_token, event_id, row_id
from multiflora_platform.web.resources import answers, compressed, event_stream

router = APIRouter(tags=["operations"], dependencies=[Depends(require_admin)])
_LAST = 2**63 - 1
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/replicas", responses=answers(ReplicaPage), response_model=None)
async def list_replicas(request: Request, on_disk: bool = True) -> Response:
    """Each engine: pid, state, which adapters it has where; on_disk=false: without those on disk alone."""
    items = await registry_of(request).engine.replicas(on_disk=on_disk)
    return await compressed(request, {"items": items, "next_page_token": None})


@router.get("/events", responses=answers(EventPage), response_model=None)
async def list_events(
    request: Request,
    cursor: Annotated[int, Query(ge=0, le=_LAST)] = 0,
    limit: Limit = 100,
    newest: Annotated[bool, Query(description="the last ones, newest first, whatever the cursor")] = False,
    type: Annotated[list[str] | None, Query(max_length=64, description="of newest: only those of these types")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """What happened after `cursor`, oldest first; a live feed when Accept asks for text/event-stream."""
    feed = registry_of(request).feed
    if "text/event-stream" in request.headers.get("accept", ""):
        start = max(cursor, event_id(last_event_id) if last_event_id else 0)
        return event_stream(request, feed.follow(start))
    items = await (feed.newest(limit, type or ()) if newest else feed.page(cursor, limit))
    last = max((item["id"] for item in items), default=cursor)
    return await compressed(request, {"items": items, "next_cursor": last})


@router.get("/audit", responses=answers(AuditPage), response_model=None)
async def list_audit(
    request: Request,
    limit: Limit = 100,
    page_token: str | None = None,
    adapter: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Who did what, newest first. adapter: only what was done to it, its versions and its aliases."""
    before = row_id(page_token) if page_token else _LAST
    items = await audit_page(registry_of(request).database, before, limit, adapter)
    more = len(items) == limit
    token = encode_token(str(items[-1]["id"])) if more else None
    return await compressed(request, {"items": items, "next_page_token": token})
