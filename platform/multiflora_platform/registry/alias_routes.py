"""/api/v1/adapters/{name}/aliases: moving names between versions, guarded by ETags."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.aliases import Precondition
from multiflora_platform.registry.bodies import AliasTarget, read_json, schema
from multiflora_platform.registry.errors import AliasNotFound
from multiflora_platform.registry.listing import alias_view
from multiflora_platform.registry.requests import changeable, readable, registry_of

router = APIRouter(tags=["aliases"])
AnyKey = Annotated[Principal, Depends(require_key)]
IfMatch = Annotated[str | None, Header()]


@router.get("/adapters/{name}/aliases")
async def list_aliases(request: Request, principal: AnyKey, name: str) -> dict[str, Any]:
    entry = readable(request, principal, name)
    return {"items": [alias_view(name, alias) for alias in entry.aliases.values()], "next_page_token": None}


@router.get("/adapters/{name}/aliases/{alias}")
async def get_alias(request: Request, principal: AnyKey, name: str, alias: str) -> Response:
    """With its ETag, which a change must bring as If-Match."""
    readable(request, principal, name)
    return _shown(request, name, alias, 200)


@router.put("/adapters/{name}/aliases/{alias}", openapi_extra=schema(AliasTarget))
async def put_alias(
    request: Request,
    principal: AnyKey,
    name: str,
    alias: str,
    if_match: IfMatch = None,
    if_none_match: IfMatch = None,
) -> Response:
    """201 when it is new; moving one needs If-Match (428 without, 412 when stale)."""
    changeable(request, principal, name)
    target = (await read_json(request, AliasTarget)).target
    precondition = Precondition(if_match, if_none_match)
    created = await registry_of(request).aliases.put(name, alias, target, precondition, principal.actor)
    return _shown(request, name, alias, 201 if created else 200)


@router.delete("/adapters/{name}/aliases/{alias}", status_code=204)
async def delete_alias(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """Without `default`, `model=name` is a 404."""
    changeable(request, principal, name)
    await registry_of(request).aliases.remove(name, alias, Precondition(if_match), principal.actor)
    return Response(status_code=204)


@router.post("/adapters/{name}/aliases/{alias}:rollback")
async def roll_back_alias(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """To the target it had before; If-Match is welcome, not required. Rolling back twice undoes the first."""
    changeable(request, principal, name)
    precondition = Precondition(if_match, required=False)
    await registry_of(request).aliases.roll_back(name, alias, precondition, principal.actor)
    return _shown(request, name, alias, 200)


def _shown(request: Request, name: str, alias: str, status: int) -> Response:
    entry = registry_of(request).adapter(name).aliases.get(alias)
    if entry is None:
        raise AliasNotFound(f"Adapter {name!r} has no alias {alias[:80]!r}.")
    return JSONResponse(alias_view(name, entry), status, headers={"ETag": entry.etag})
