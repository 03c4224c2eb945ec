"""/api/v1/usage: what tenants used; a tenant sees its own."""

from __future__ import annotations

from datetime import date
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.account_answers import UsagePage
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import Group, UsageFilter, UsageLedger
from multiflora_platform.web.refusals import Forbidden
from multiflora_platform.web.resources import answers, compressed

router = APIRouter(tags=["usage"])


@router.get("/usage", responses=answers(UsagePage))
async def get_usage(
    request: Request,
    principal: Annotated[Principal, Depends(require_key)],
    tenant: str | None = None,
    adapter: str | None = None,
    since: date | None = None,
    until: date | None = None,
    group_by: Annotated[list[Group], Query()] = ["day", "tenant", "adapter"],  # noqa: B006 - never changed
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
) -> Response:
    """Sums by day (UTC), tenant and adapter, or by fewer of them. `since`, `until`: days, both included."""
    if not principal.is_admin:
        if tenant not in (None, principal.tenant):
            raise Forbidden("A tenant's key sees its own usage only.")
        tenant = principal.tenant
    wanted = UsageFilter(tenant, adapter, since, until, group_by)
    ledger = cast(UsageLedger, request.app.state.services.usage)
    return await compressed(request, await ledger.page(wanted, limit, page_token))
