"""/api/v1/adapters/{name}/aliases: moving names between versions, guarded by ETags."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response
from msgspec.structs import replace
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin, require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import AliasNotFound
from multiflora_platform.registry.routes.access import actor_for, changeable, readable, registry_of
from multiflora_platform.registry.rows.aliases import MovePrecondition
from multiflora_platform.registry.schemas.answers import Alias, AliasHistory, AliasPage
from multiflora_platform.registry.schemas.bodies import AliasTarget
from multiflora_platform.registry.schemas.splits import SplitObserved
from multiflora_platform.registry.snapshot.listing import alias_view
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.pagination import LAST_ID, encode_token, row_id
from multiflora_platform.web.resources import answers, compressed, rendered, resource

router = APIRouter(tags=["aliases"])
AnyKey = Annotated[Principal, Depends(require_key)]
Admin = Annotated[Principal, Depends(require_admin)]
IfMatch = Annotated[str | None, Header()]


@router.get("/adapters/{name}/aliases", responses=answers(AliasPage), response_model=None)
async def list_aliases(request: Request, principal: AnyKey, name: str) -> dict[str, Any]:
    entry = readable(request, principal, name)
    return {"items": [alias_view(name, alias) for alias in entry.aliases.values()], "next_page_token": None}


@router.get("/adapters/{name}/aliases/{alias}", responses=answers(Alias), response_model=None)
async def get_alias(request: Request, principal: AnyKey, name: str, alias: str) -> Response:
    """With its ETag, which a change must bring as If-Match."""
    readable(request, principal, name)
    return _shown(request, name, alias, 200)


@router.get("/adapters/{name}/aliases/{alias}/split", responses=answers(SplitObserved))
async def get_split(request: Request, principal: AnyKey, name: str, alias: str) -> Response:
    """How the versions of a split do, where no rollout watches it: requests, errors, latency of each."""
    readable(request, principal, name)
    return rendered(registry_of(request).splits.view(name, alias))


@router.put(
    "/adapters/{name}/aliases/{alias}",
    openapi_extra=schema(AliasTarget),
    responses=answers(Alias, 200, 201),
    response_model=None,
)
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
    precondition = MovePrecondition(if_match, if_none_match, required=True, may_move_protected=principal.is_admin)
    created = await registry_of(request).aliases.put(name, alias, target, precondition, principal.actor)
    return _shown(request, name, alias, 201 if created else 200)


@router.delete("/adapters/{name}/aliases/{alias}", status_code=204)
async def delete_alias(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """Without `default`, `model=name` is a 404."""
    changeable(request, principal, name)
    precondition = MovePrecondition(if_match, required=True, may_move_protected=principal.is_admin)
    await registry_of(request).aliases.remove(name, alias, precondition, principal.actor)
    return Response(status_code=204)


@router.post("/adapters/{name}/aliases/{alias}:rollback", responses=answers(Alias), response_model=None)
async def roll_back_alias(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """To `rollback_to`, the last settled target; a second time changes nothing. If-Match is not required."""
    changeable(request, principal, name)
    precondition = MovePrecondition(if_match, may_move_protected=principal.is_admin)
    await registry_of(request).aliases.roll_back(name, alias, precondition, principal.actor)
    return _shown(request, name, alias, 200)


@router.get("/adapters/{name}/aliases/{alias}/history", responses=answers(AliasHistory))
async def get_alias_history(
    request: Request,
    principal: AnyKey,
    name: str,
    alias: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
) -> Response:
    """Where it pointed, newest first, also after it was deleted."""
    readable(request, principal, name)
    before = row_id(page_token) if page_token else LAST_ID
    moves = await registry_of(request).aliases.history(name, alias, before, limit + 1)
    token = encode_token(str(moves[limit - 1].id)) if len(moves) > limit else None
    items = [replace(move, actor=actor_for(principal, move.actor)) for move in moves[:limit]]
    return await compressed(request, AliasHistory(items=items, next_page_token=token))


@router.post("/adapters/{name}/aliases/{alias}:protect", responses=answers(Alias), response_model=None)
async def protect_alias(
    request: Request, principal: Admin, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """Only admins move or delete it from now on, or delete its adapter."""
    await registry_of(request).aliases.protect(name, alias, MovePrecondition(if_match), principal.actor)
    return _shown(request, name, alias, 200)


@router.post("/adapters/{name}/aliases/{alias}:unprotect", responses=answers(Alias), response_model=None)
async def unprotect_alias(
    request: Request, principal: Admin, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """Its owner may move it again."""
    await registry_of(request).aliases.unprotect(name, alias, MovePrecondition(if_match), principal.actor)
    return _shown(request, name, alias, 200)


def _shown(request: Request, name: str, alias: str, status: int) -> Response:
    entry = registry_of(request).adapter(name).aliases.get(alias)
    if entry is None:
        raise AliasNotFound(f"Adapter {name!r} has no alias {alias[:80]!r}.")
    return resource(request, alias_view(name, entry), status)
