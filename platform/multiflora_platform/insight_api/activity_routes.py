"""/api/v1/activity: how much each adapter is used, for admins; each number over a window that it names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.usage import AdapterRequests
from multiflora_platform.insight.adapter_activity import SPEED_SECONDS, RecentUse
from multiflora_platform.insight.views.activity import ActivityAnswer, AdapterUse
from multiflora_platform.services import Services
from multiflora_platform.web.resources import answers, compressed

router = APIRouter(tags=["insight"], dependencies=[Depends(require_admin)])
_DAYS = 7


@router.get("/activity", responses=answers(ActivityAnswer))
async def get_activity(request: Request) -> Response:
    """Requests of the last 7 days (UTC), and how fast the last answers came, by adapter; those that were used."""
    services: Services = request.app.state.services
    since = datetime.now(UTC).date() - timedelta(days=_DAYS - 1)
    counted, recent = await services.usage.by_adapter(since), services.insight.activity.all()
    adapters = sorted(counted.keys() | recent.keys(), key=lambda adapter: adapter or "")
    days = [(since + timedelta(days=number)).isoformat() for number in range(_DAYS)]
    items = [_use(adapter, days, counted.get(adapter), recent.get(adapter)) for adapter in adapters]
    return await compressed(request, ActivityAnswer(since.isoformat(), _DAYS, SPEED_SECONDS, items))


def _use(
    adapter: str | None, days: Sequence[str], counted: AdapterRequests | None, recent: RecentUse | None
) -> AdapterUse:
    return AdapterUse(
        adapter=adapter,
        requests=counted.requests if counted else 0,
        by_day=[counted.by_day.get(day, 0) if counted else 0 for day in days],
        last_day=counted.last_day if counted else None,
        last_used_at=recent.last_used_at if recent else None,
        timed_answers=recent.timed_answers if recent else 0,
        p95_seconds=recent.p95_seconds if recent else None,
        ended_requests=recent.ended if recent else 0,
        error_share=recent.error_share if recent else None,
        tokens_per_second=recent.tokens_per_second if recent else 0.0,
    )
