"""/api/v1/usage, /api/v1/budgets and /api/v1/refusals: what tenants used, may use, and were refused; a tenant sees its
own."""

from __future__ import annotations

from datetime import date
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.account_answers import BudgetPage, RefusalPage, TenantRefusals, UsagePage
from multiflora_platform.auth.budgets import Budgets
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.tallies.windows import Window
from multiflora_platform.auth.usage import GROUPS, Group, UsageFilter, UsageLedger
from multiflora_platform.web.refusals import Forbidden
from multiflora_platform.web.resources import answers, compressed, rendered

router = APIRouter(tags=["usage"])


@router.get("/usage", responses=answers(UsagePage))
async def get_usage(
    request: Request,
    principal: Annotated[Principal, Depends(require_key)],
    tenant: str | None = None,
    adapter: str | None = None,
    key: str | None = None,
    since: date | None = None,
    until: date | None = None,
    group_by: Annotated[list[Group], Query()] = list(GROUPS),  # noqa: B006 - never changed
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
) -> Response:
    """Sums by day (UTC), tenant and adapter, by fewer, or by key (its id). `since`, `until`: days, both counted."""
    wanted = UsageFilter(_visible(principal, tenant), adapter, key, since, until, group_by)
    ledger = cast(UsageLedger, request.app.state.services.usage)
    return await compressed(request, await ledger.page(wanted, limit, page_token))


@router.get("/budgets", responses=answers(BudgetPage))
async def get_budgets(
    request: Request, principal: Annotated[Principal, Depends(require_key)], tenant: str | None = None
) -> Response:
    """What is used of each budget in the present day or month (UTC), by tenant."""
    budgets = cast(Budgets, request.app.state.services.budgets)
    return rendered(BudgetPage(items=await budgets.uses(_visible(principal, tenant)), next_page_token=None))


@router.get("/refusals", responses=answers(RefusalPage))
async def get_refusals(
    request: Request,
    principal: Annotated[Principal, Depends(require_key)],
    tenant: str | None = None,
    window: Window = "day",
) -> Response:
    """Requests that were refused, by tenant and cause: today, in the last 7 or the last 30 days (UTC)."""
    ledger = cast(UsageLedger, request.app.state.services.usage)
    found = await ledger.refusals.of(window, _visible(principal, tenant))
    items = [TenantRefusals(tenant=name, refused=refused) for name, refused in sorted(found.items())]
    return rendered(RefusalPage(items=items, next_page_token=None))


def _visible(principal: Principal, tenant: str | None) -> str | None:
    """tenant: that the request names; None for admins: all. Raises Forbidden."""
    if principal.is_admin:
        return tenant
    if tenant not in (None, principal.tenant):
        raise Forbidden("A tenant's key sees its own usage only.")
    return principal.tenant
