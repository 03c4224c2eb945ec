"""/api/v1/requests: the last requests in numbers; a tenant sees its own, without what is behind the server's face."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from msgspec.structs import replace
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.insight.insight import Insight
from multiflora_platform.insight.request_log import LoggedRequest
from multiflora_platform.insight.views.requests import RequestPage, RequestView
from multiflora_platform.insight_api.errors import RequestForgotten
from multiflora_platform.web.pagination import decode_token, encode_token
from multiflora_platform.web.refusals import Forbidden
from multiflora_platform.web.resources import answers, compressed, rendered

router = APIRouter(tags=["insight"])
AnyKey = Annotated[Principal, Depends(require_key)]


@router.get("/requests", responses=answers(RequestPage))
async def list_requests(
    request: Request,
    principal: AnyKey,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
    model: str | None = None,
    status: int | None = None,
    tenant: str | None = None,
    since: Annotated[str | None, Query(max_length=64, description="an answer's cursor")] = None,
) -> Response:
    """The last 2,000 prompts and refusals, newest first; without their texts. since: only those that changed."""
    if not principal.is_admin and tenant not in (None, principal.tenant):
        raise Forbidden("A tenant's key sees its own requests only.")
    log = _insight(request).requests
    before = decode_token(page_token) if page_token else None
    changes, cursor = log.changes_since(since), log.cursor
    found: list[RequestView] = []
    for entry in log.newest(before):
        facts = entry.facts
        if changes is not None and entry.changed <= changes and entry.ended_at is not None:
            continue
        if model not in (None, facts.model) or tenant not in (None, facts.tenant) or status not in (None, entry.status):
            continue
        if not _may_see(principal, entry):
            continue
        found.append(_view(principal, entry))
        if len(found) > limit:
            break
    more = len(found) > limit
    token = encode_token(found[limit - 1].id) if more else None
    return await compressed(request, RequestPage(found[:limit], token, cursor, changes is None))


@router.get("/requests/{id}", responses=answers(RequestView))
async def get_request(request: Request, principal: AnyKey, id: str) -> Response:
    """One prompt, with the stages it went through, and for admins what it said where the server keeps that."""
    insight = _insight(request)
    entry = insight.requests.find(id)
    if entry is None or not _may_see(principal, entry):
        raise RequestForgotten(f"There is no request {id[:80]!r} among the last ones.")
    body = insight.bodies.find(id) if insight.bodies is not None and principal.is_admin else None
    return rendered(replace(_view(principal, entry), body=body))


def _may_see(principal: Principal, entry: LoggedRequest) -> bool:
    return principal.is_admin or entry.facts.tenant == principal.tenant


def _view(principal: Principal, entry: LoggedRequest) -> RequestView:
    """A tenant learns nothing of the engines."""
    view = entry.view()
    return view if principal.is_admin else replace(view, placement=None)


def _insight(request: Request) -> Insight:
    insight: Insight = request.app.state.services.insight
    return insight
