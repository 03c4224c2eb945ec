"""/api/v1/tenants and /api/v1/keys, for admins."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.account_answers import (
    Key,
    KeyPage,
    LimitsNow,
    NewlyMadeKey,
    RefusalCounts,
    Tenant,
    TenantPage,
)
from multiflora_platform.auth.account_requests import (
    KeyRotation,
    NewKey,
    NewTenant,
    TenantPatch,
)
from multiflora_platform.auth.dependencies import keys_of, require_admin, require_key
from multiflora_platform.auth.limits.limits import Limits
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.tallies.windows import Window
from multiflora_platform.auth.usage import UsageLedger
from multiflora_platform.prices import prices_of
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.web.refusals import Forbidden
from multiflora_platform.web.request_headers import Absent, Unchanged
from multiflora_platform.web.resources import answers, rendered, resource

router = APIRouter()
Admin = Annotated[Principal, Depends(require_admin)]


@router.post(
    "/tenants", tags=["tenants"], status_code=201, openapi_extra=schema(NewTenant), responses=answers(Tenant, 201)
)
async def create_tenant(request: Request, principal: Admin, expected: Absent) -> Response:
    """A tenant owns keys; its limits and its share of the cache are those of all of them together."""
    body = await read_json(request, NewTenant)
    _check_money(request, body.fields)
    made = await keys_of(request).tenants.create(principal.actor, body.name, expected, **body.fields)
    return resource(request, made, 201, {"Location": f"/api/v1/tenants/{made.name}"})


@router.get("/tenants", tags=["tenants"], responses=answers(TenantPage))
async def list_tenants(request: Request, principal: Admin) -> Response:
    """By name, all of them."""
    return rendered(TenantPage(items=await keys_of(request).tenants.all(), next_page_token=None))


@router.get("/tenants/{tenant}", tags=["tenants"], responses=answers(Tenant))
async def get_tenant(request: Request, principal: Admin, tenant: str) -> Response:
    return resource(request, await keys_of(request).tenants.one(tenant))


@router.get("/tenants/{tenant}/limits", tags=["tenants"], responses=answers(LimitsNow))
async def get_tenant_limits(
    request: Request, principal: Annotated[Principal, Depends(require_key)], tenant: str, window: Window = "day"
) -> Response:
    """What is left of its limits now; peaks and refusals of the last 1, 7 or 30 days. A tenant sees its own."""
    if not principal.is_admin and tenant != principal.tenant:
        raise Forbidden("A tenant's key sees its own limits only.")
    limits = cast(Limits, request.app.state.services.limits)
    ledger = cast(UsageLedger, request.app.state.services.usage)
    whose = await keys_of(request).tenants.principal(tenant)
    now, policy = await limits.standing(whose), whose.policy
    return rendered(
        LimitsNow(
            requests_per_minute=policy.requests_per_minute,
            tokens_per_minute=policy.tokens_per_minute,
            max_concurrent_requests=policy.max_concurrent_requests,
            requests_left=None if now.requests_left is None else floor(now.requests_left),
            tokens_left=None if now.tokens_left is None else floor(now.tokens_left),
            running=now.running,
            counted_by="all servers" if now.is_shared else "this server",
            peak=await ledger.peaks.of(window, tenant),
            refused=(await ledger.refusals.of(window, tenant)).get(tenant, RefusalCounts()),
        )
    )


@router.patch("/tenants/{tenant}", tags=["tenants"], openapi_extra=schema(TenantPatch), responses=answers(Tenant))
async def change_tenant(request: Request, principal: Admin, tenant: str, expected: Unchanged) -> Response:
    """Holds from the next request on; null lifts a limit."""
    body = await read_json(request, TenantPatch)
    _check_money(request, body.fields)
    changed = await keys_of(request).tenants.amend(principal.actor, tenant, expected, **body.fields)
    return resource(request, changed)


@router.post(
    "/keys", tags=["keys"], status_code=201, openapi_extra=schema(NewKey), responses=answers(NewlyMadeKey, 201)
)
async def create_key(request: Request, principal: Admin) -> Response:
    """The answer's `key` is shown this once."""
    body = await read_json(request, NewKey)
    made = await keys_of(request).create_key(
        principal.actor,
        name=body.name,
        role=body.role,
        tenant=body.tenant,
        scopes=body.scopes,
        expires_at=body.expires_at,
    )
    return _made(request, made)


@router.get("/keys", tags=["keys"], responses=answers(KeyPage))
async def list_keys(request: Request, principal: Admin, tenant: str | None = None) -> Response:
    """Oldest first; `tenant`: only this one's."""
    return rendered(KeyPage(items=await keys_of(request).keys(tenant=tenant), next_page_token=None))


@router.get("/keys/{key_id}", tags=["keys"], responses=answers(Key))
async def get_key(request: Request, principal: Admin, key_id: str) -> Response:
    return resource(request, (await keys_of(request).keys(key_id))[0])


@router.post(
    "/keys/{key_id}:rotate",
    tags=["keys"],
    status_code=201,
    openapi_extra=schema(KeyRotation),
    responses=answers(NewlyMadeKey, 201),
)
async def rotate_key(request: Request, principal: Admin, key_id: str, expected: Unchanged) -> Response:
    """A new key like the old one, which goes on working for `overlap_seconds`."""
    body = await read_json(request, KeyRotation)
    return _made(request, await keys_of(request).rotate_key(principal.actor, key_id, body.overlap_seconds, expected))


@router.delete("/keys/{key_id}", tags=["keys"], status_code=204)
async def revoke_key(request: Request, principal: Admin, key_id: str, expected: Unchanged) -> Response:
    """Refused from the next request on; it stays in the list, with `revoked_at`."""
    await keys_of(request).revoke_key(principal.actor, key_id, expected)
    return Response(status_code=204)


def _check_money(request: Request, fields: Mapping[str, Any]) -> None:
    """A budget of money that nothing counts towards would be none. Raises InvalidRequest."""
    asked = [name for name, value in fields.items() if name.startswith("budget_money") and value is not None]
    if asked and prices_of(request.app.state.services.settings) is None:
        detail = "A budget of money needs prices: start with --price-per-device-second, or set one of tokens."
        raise InvalidRequest(detail, pointer=f"/{asked[0]}")


def _made(request: Request, key: NewlyMadeKey) -> Response:
    return resource(request, key, 201, {"Location": f"/api/v1/keys/{key.id}", "Cache-Control": "no-store"})
