"""/api/v1/tenants and /api/v1/keys, for admins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.bodies import NewKey, NewTenant, read_json, schema
from multiflora_platform.registry.requests import keys_of

router = APIRouter(tags=["keys"])
Admin = Annotated[Principal, Depends(require_admin)]


@router.post("/tenants", status_code=201, openapi_extra=schema(NewTenant))
async def create_tenant(request: Request, principal: Admin) -> Response:
    body = await read_json(request, NewTenant)
    return JSONResponse(await keys_of(request).create_tenant(principal.actor, body.name), 201)


@router.get("/tenants")
async def list_tenants(request: Request, principal: Admin) -> dict[str, Any]:
    return {"items": await keys_of(request).tenants(), "next_page_token": None}


@router.post("/keys", status_code=201, openapi_extra=schema(NewKey))
async def create_key(request: Request, principal: Admin) -> Response:
    """The answer's `key` is shown this once."""
    body = await read_json(request, NewKey)
    made = await keys_of(request).create_key(principal.actor, name=body.name, role=body.role, tenant=body.tenant)
    headers = {"Location": f"/api/v1/keys/{made['id']}", "Cache-Control": "no-store"}
    return JSONResponse(made, 201, headers=headers)


@router.get("/keys")
async def list_keys(request: Request, principal: Admin) -> dict[str, Any]:
    return {"items": await keys_of(request).keys(), "next_page_token": None}


@router.get("/keys/{key_id}")
async def get_key(request: Request, principal: Admin, key_id: str) -> dict[str, Any]:
    return (await keys_of(request).keys(key_id))[0]


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(request: Request, principal: Admin, key_id: str) -> Response:
    """Refused from the next request on; it stays in the list, with `revoked_at`."""
    await keys_of(request).revoke_key(principal.actor, key_id)
    return Response(status_code=204)
