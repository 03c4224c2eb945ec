"""/api/v1/adapters: the catalog, and commands to the engine about an adapter."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin, require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.routes.access import (
    OneReplica,
    changeable,
    check_warmed_tenants,
    deletable,
    listed,
    readable,
    registry_of,
    shown,
    version_number,
)
from multiflora_platform.registry.schemas.answers import Adapter, AdapterPage, CommandDone
from multiflora_platform.registry.schemas.bodies import AdapterPatch, CommandTarget, NewAdapter
from multiflora_platform.registry.snapshot.listing import adapter_view, page
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.request_headers import Absent, Unchanged
from multiflora_platform.web.resources import answers, compressed, resource

router = APIRouter(tags=["adapters"])
AnyKey = Annotated[Principal, Depends(require_key)]
Admin = Annotated[Principal, Depends(require_admin)]


@router.post(
    "/adapters", status_code=201, openapi_extra=schema(NewAdapter), responses=answers(Adapter, 201), response_model=None
)
async def create_adapter(request: Request, principal: AnyKey, expected: Absent) -> Response:
    """Make an adapter; a tenant's key makes it the tenant's own.

    409 when the name is taken, 412 with `If-None-Match: *`.
    """
    body = await read_json(request, NewAdapter)
    await check_warmed_tenants(request, principal, body.fields)
    entry = await registry_of(request).adapters.create(
        body.name, body.fields, principal.actor, principal.tenant, expected
    )
    return resource(request, adapter_view(entry), 201, {"Location": f"/api/v1/adapters/{entry.name}"})


@router.get("/adapters", responses=answers(AdapterPage), response_model=None)
async def list_adapters(
    request: Request,
    principal: AnyKey,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str | None = None,
    q: str | None = None,
    tag: str | None = None,
) -> Response:
    """By name. `q`: a part of name or description, the adapter of this name first; `tag`: one of its tags."""
    found = page(registry_of(request).snapshot, limit, page_token, q, tag, lambda entry: listed(principal, entry))
    items = [shown(principal, item) for item in found.items]
    return await compressed(request, {"items": items, "next_page_token": found.next_page_token})


@router.get("/adapters/{name}", responses=answers(Adapter), response_model=None)
async def get_adapter(request: Request, principal: AnyKey, name: str) -> Response:
    return resource(request, shown(principal, adapter_view(readable(request, principal, name))))


@router.patch("/adapters/{name}", openapi_extra=schema(AdapterPatch), responses=answers(Adapter), response_model=None)
async def change_adapter(request: Request, principal: AnyKey, name: str, expected: Unchanged) -> Response:
    """Description, tags, demo_prompt; null clears."""
    changeable(request, principal, name)
    fields = (await read_json(request, AdapterPatch)).fields
    await check_warmed_tenants(request, principal, fields)
    entry = await registry_of(request).adapters.amend(name, fields, principal.actor, expected)
    return resource(request, adapter_view(entry))


@router.delete("/adapters/{name}", status_code=204)
async def delete_adapter(request: Request, principal: AnyKey, name: str, expected: Unchanged) -> Response:
    """The name is a 404 at once and free again; running requests finish."""
    deletable(request, principal, name)
    await registry_of(request).adapters.remove(name, principal.actor, expected)
    return Response(status_code=204)


async def _command(
    request: Request,
    principal: Principal,
    name: str,
    version: str | None,
    replica: str | None,
    action: Literal["load", "unload", "pin", "unpin"],
) -> dict[str, Any]:
    number = version_number(version, name) if version is not None else None
    if request.headers.get("content-length", "0") != "0":
        number = (await read_json(request, CommandTarget)).version or number
    return await registry_of(request).engine.command(action, name, number, principal.actor, replica)


@router.post("/adapters/{name}:load", responses=answers(CommandDone), response_model=None)
async def load_adapter(
    request: Request, principal: Admin, name: str, version: str | None = None, replica: OneReplica = None
) -> dict[str, Any]:
    """Bring it into a slot now, rather than at its first request."""
    return await _command(request, principal, name, version, replica, "load")


@router.post("/adapters/{name}:unload", responses=answers(CommandDone), response_model=None)
async def unload_adapter(
    request: Request, principal: Admin, name: str, version: str | None = None, replica: OneReplica = None
) -> dict[str, Any]:
    """Take it out of memory; its next request loads it again."""
    return await _command(request, principal, name, version, replica, "unload")


@router.post("/adapters/{name}:pin", responses=answers(CommandDone), response_model=None)
async def pin_adapter(
    request: Request, principal: Admin, name: str, version: str | None = None, replica: OneReplica = None
) -> dict[str, Any]:
    """Load it and never evict it."""
    return await _command(request, principal, name, version, replica, "pin")


@router.post("/adapters/{name}:unpin", responses=answers(CommandDone), response_model=None)
async def unpin_adapter(
    request: Request, principal: Admin, name: str, version: str | None = None, replica: OneReplica = None
) -> dict[str, Any]:
    """It may be evicted again."""
    return await _command(request, principal, name, version, replica, "unpin")
