"""/api/v1/live: one stream that tells a client what of all it shows has changed, so that it polls nothing."""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.insight.views.activity import Point
from multiflora_platform.services import Services
from multiflora_platform.web.resources import event_stream

router = APIRouter(tags=["insight"])
# A client comes again by itself, and its key is looked at again.
_LONGEST_SECONDS = 600
_ALIVE_SECONDS = 15


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """changed: of kinds of things, stamps that are others than in the News before: `records` (what the database holds),
    `adapters` (with their versions and aliases), `requests` (of all, or of the tenant whose key it is), and for admins
    `engines` and `alerts`. point: of the series, for admins, each second."""

    changed: Mapping[str, str] = {}
    point: Point | None = None


@router.get("/live", include_in_schema=False)
async def follow(request: Request, principal: Annotated[Principal, Depends(require_key)]) -> Response:
    """Server-sent events, at most one a second: the first tells all stamps, each later one those that changed."""
    return event_stream(request, _frames(request.app.state.services, principal))


async def _frames(services: Services, principal: Principal) -> AsyncIterator[bytes]:
    told = _stamps(services, principal)
    yield _frame(News(told))
    seconds = 0
    async for point in services.insight.points():
        stamps = _stamps(services, principal)
        news = News(
            {kind: stamp for kind, stamp in stamps.items() if told[kind] != stamp},
            point if principal.is_admin else None,
        )
        told, seconds = stamps, seconds + 1
        if news.changed or news.point is not None or seconds % _ALIVE_SECONDS == 0:
            yield _frame(news)
        if seconds == _LONGEST_SECONDS:
            return


def _frame(news: News) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(news)


def _stamps(services: Services, principal: Principal) -> dict[str, str]:
    course = services.insight.requests.course(None if principal.is_admin else principal.tenant)
    registry = services.registry
    stamps = {
        "records": str(registry.database.commits),
        "adapters": str(registry.num_snapshots),
        "requests": course.stamp(time.time()),
    }
    if not principal.is_admin:
        return stamps
    engines = [
        (group.name, group.asleep, [(one.id, one.state, one.pid, one.stats) for one in group.engine.replicas])
        for group in services.groups
    ]
    return stamps | {"engines": _digest(engines), "alerts": _digest(services.insight.alerts.known)}


def _digest(value: object) -> str:
    return format(zlib.crc32(msgspec.json.encode(value)), "x")
