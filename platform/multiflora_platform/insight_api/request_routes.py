"""/api/v1/requests: the last requests in numbers; a tenant sees its own, without what is behind the server's face."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from msgspec.structs import replace
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.inquiry import explain_logged
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.insight.insight import Insight
from multiflora_platform.insight.logged_request import LoggedRequest
from multiflora_platform.insight.request_log import Entry
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.insight.views.requests import KeptBody, RequestPage, RequestView
from multiflora_platform.insight_api.errors import RequestForgotten
from multiflora_platform.prices import Prices, prices_of
from multiflora_platform.services import Services
from multiflora_platform.web.pagination import decode_token, encode_token
from multiflora_platform.web.refusals import Forbidden
from multiflora_platform.web.resources import answers, compressed, rendered

router = APIRouter(tags=["insight"])
AnyKey = Annotated[Principal, Depends(require_key)]
_CHAT = "/v1/chat/completions"


@router.get("/requests", responses=answers(RequestPage))
async def list_requests(
    request: Request,
    principal: AnyKey,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
    model: str | None = None,
    status: int | None = None,
    tenant: str | None = None,
    id: Annotated[str | None, Query(max_length=200, description="a prompt's, its answer's or its X-Request-ID")] = None,
    since: Annotated[str | None, Query(max_length=64, description="an answer's cursor")] = None,
) -> Response:
    """The last 50,000 prompts and refusals, newest first, without texts. since: what changed; id: that one."""
    if not principal.is_admin and tenant not in (None, principal.tenant):
        raise Forbidden("A tenant's key sees its own requests only.")
    log, prices = _insight(request).requests, _prices(request)
    if id is not None:
        one = _find(request, principal, id)
        return rendered(RequestPage([] if one is None else [_view(principal, one, prices)], None, log.cursor, True))
    before = decode_token(page_token) if page_token else None
    changes, cursor = log.changes_since(since), log.cursor
    found: list[RequestView] = []
    for entry in log.newest(before, changes):
        if model not in (None, entry.model) or tenant not in (None, entry.tenant) or status not in (None, entry.status):
            continue
        if not _may_see(principal, entry):
            continue
        found.append(_view(principal, entry, prices))
        if len(found) > limit:
            break
    more = len(found) > limit
    token = encode_token(found[limit - 1].id) if more else None
    return await compressed(request, RequestPage(found[:limit], token, cursor, changes is None))


@router.get("/requests/{id}", responses=answers(RequestView))
async def get_request(request: Request, principal: AnyKey, id: str) -> Response:
    """One prompt, by its id, its answer's or its X-Request-ID, with its stages; for admins its texts where kept."""
    entry = _entry(request, principal, id)
    return rendered(replace(_view(principal, entry, _prices(request)), body=_body(request, principal, entry)))


@router.get("/requests/{id}/cache", responses=answers(CacheExplanation))
async def explain_request(request: Request, principal: AnyKey, id: str) -> Response:
    """What the prefix cache had of one prompt, where it parts from the closest before it, why, what to do."""
    services: Services = request.app.state.services
    entry = _entry(request, principal, id)
    found = await explain_logged(services, entry, _chat(_body(request, principal, entry), entry.facts.path))
    if found is None:
        raise RequestForgotten("Its prompt is not kept: the newest 100 of a tenant are, up to 524,288 tokens.")
    return rendered(found)


def _entry(request: Request, principal: Principal, id: str) -> LoggedRequest:
    """Raises RequestForgotten."""
    entry = _find(request, principal, id)
    if entry is None:
        raise RequestForgotten(f"There is no request {id[:80]!r} among the last ones.")
    return entry


def _find(request: Request, principal: Principal, id: str) -> LoggedRequest | None:
    """id: the request's, its answer's, or that of its X-Request-ID."""
    log = _insight(request).requests
    entry = log.find(id) or log.find_by_answer(id)
    return entry if entry is not None and _may_see(principal, entry) else None


def _body(request: Request, principal: Principal, entry: LoggedRequest) -> KeptBody | None:
    bodies = _insight(request).bodies
    return bodies.find(entry.facts.id) if bodies is not None and principal.is_admin else None


def _chat(body: KeptBody | None, path: str) -> ChatRequest | None:
    """None too of one behind a context, whose messages are not the whole prompt's."""
    if body is None or path != _CHAT:
        return None
    chat = msgspec.json.decode(body.request, type=ChatRequest)
    return None if chat.context is not None else chat


def _may_see(principal: Principal, entry: Entry) -> bool:
    return principal.is_admin or entry.tenant == principal.tenant


def _view(principal: Principal, entry: Entry, prices: Prices | None) -> RequestView:
    """A tenant learns nothing of the engines."""
    view = entry.view()
    cost = prices and prices.of_request(view.device_seconds, view.cached_tokens)
    return replace(view, cost=cost, placement=view.placement if principal.is_admin else None)


def _prices(request: Request) -> Prices | None:
    services: Services = request.app.state.services
    return prices_of(services.settings)


def _insight(request: Request) -> Insight:
    insight: Insight = request.app.state.services.insight
    return insight
