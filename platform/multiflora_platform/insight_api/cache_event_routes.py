"""GET /api/v1/cache/events: what the prefix cache gains and loses, for mirrors in other programs. Admins only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.engine import EngineHandle
from multiflora_platform.insight.mirrors.cache_events import shown
from multiflora_platform.insight.mirrors.cache_feed import CacheFeed, Events
from multiflora_platform.insight.views.cache import CacheEventPage
from multiflora_platform.insight_api.asked_group import AskedGroup
from multiflora_platform.insight_api.engine_calls import reaching_engine
from multiflora_platform.registry.routes.access import OneReplica
from multiflora_platform.services import Services
from multiflora_platform.web.pagination import event_id
from multiflora_platform.web.problems import InvalidRequest, Unavailable
from multiflora_platform.web.resources import answers, compressed, event_stream

router = APIRouter(tags=["insight"], dependencies=[Depends(require_admin)])
_LAST = 2**53
Cursor = Annotated[int | None, Query(ge=0, le=_LAST, description="an answer's next_cursor; without it: from now on")]


@router.get("/cache/events", responses=answers(CacheEventPage))
async def list_cache_events(
    request: Request,
    group: AskedGroup,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    snapshot: Annotated[bool, Query(description="begin with all that is cached")] = False,
    last_event_id: Annotated[str | None, Header()] = None,
    replica: OneReplica = None,
) -> Response:
    """What was cached and given up after `cursor`; a live feed when Accept asks for text/event-stream."""
    services: Services = request.app.state.services
    if not services.settings.enable_prefix_caching:
        raise InvalidRequest("This server runs without a prefix cache (--no-enable-prefix-caching).", pointer="")
    feed = _feed(services, group.engine, replica)
    if "text/event-stream" in request.headers.get("accept", ""):
        # A browser that comes again sends the same address and what it has heard.
        heard = event_id(last_event_id) if last_event_id else None
        events = feed.follow(cursor if heard is None else heard, snapshot=snapshot and heard is None)
        return event_stream(request, _frames(services, feed, events))
    page = await feed.page(cursor, limit, snapshot=snapshot)
    assert page.position is not None, "a page is whole"
    return await compressed(
        request,
        CacheEventPage(
            shown(feed, services.keys.cache_owners, page.items), page.position, is_continued=not page.begins
        ),
    )


def _feed(services: Services, engine: EngineHandle, replica: str | None) -> CacheFeed:
    """Raises InvalidRequest, ReplicaNotFound, Unavailable."""
    replicas = {one.id: one for one in engine.replicas}
    if not replicas:
        raise Unavailable("No engine is there yet.")
    if replica is None and len(replicas) > 1:
        raise InvalidRequest(f"Each engine has events of its own; name one with ?replica= of {', '.join(replicas)}.")
    with reaching_engine():
        engine.addressed(replica)
    return services.insight.cache_feeds.of(replicas[replica or next(iter(replicas))])


async def _frames(services: Services, feed: CacheFeed, events: AsyncIterator[Events]) -> AsyncIterator[bytes]:
    """Parts of a snapshot have no id: a client that loses the line within one needs all of it again."""
    yield b": cache events\n\n"
    async for part in events:
        lines = [b"id: %d\n" % item.seq if part.position is not None else b"" for item in part.items]
        yield (
            b"".join(
                b"%sevent: %s\ndata: %s\n\n" % (line, item.type.encode(), msgspec.json.encode(item))
                for line, item in zip(lines, shown(feed, services.keys.cache_owners, part.items), strict=True)
            )
            or b": alive\n\n"
        )
        if part.position is not None and not part.items:
            yield b"id: %d\n\n" % part.position
