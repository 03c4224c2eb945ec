"""/api/v1/contexts: beginnings of prompts that the cache holds on purpose. For every key, its tenant's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from msgspec import UNSET, UnsetType
from starlette.requests import Request

from multiflora_platform.auth.account_problems import TenantNotFound
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.limits.limits import Claim
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.changes import no_context
from multiflora_platform.contexts.content import ContextDefinition
from multiflora_platform.contexts.context_schemas import Context, ContextBody, ContextPage, ContextPatch
from multiflora_platform.contexts.entry import ContextEntry, ContextKey
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.gateway.background.context_prompts import context_ids, context_targets
from multiflora_platform.gateway.background.context_views import context_view
from multiflora_platform.gateway.refusals import as_problems
from multiflora_platform.groups import Group
from multiflora_platform.insight_api.tenant_limits import within_limits
from multiflora_platform.services import Services
from multiflora_platform.web.etags import Precondition
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.names import check_name
from multiflora_platform.web.pagination import decode_token, encode_token
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.web.refusals import Forbidden
from multiflora_platform.web.request_headers import Absent, Unchanged
from multiflora_platform.web.resources import answers, compressed, resource

router = APIRouter(tags=["contexts"])
AnyKey = Annotated[Principal, Depends(require_key)]
Tenant = Annotated[str | None, Query(description="whose it is, for admins; by default, the admins' own")]


@router.get("/contexts", responses=answers(ContextPage))
async def list_contexts(
    request: Request,
    principal: AnyKey,
    tenant: Tenant = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
) -> Response:
    """By tenant and name; admins see all, or a tenant's."""
    owner = None if principal.is_admin and tenant is None else _owner(principal, tenant)
    after = _place(page_token) if page_token else ("", "")
    book = _services(request).contexts.book
    found = [one for one in book.all() if one.key > after and owner in (None, one.key[0])]
    token = encode_token("/".join(found[limit - 1].key)) if len(found) > limit else None
    views = await asyncio.gather(*(_view(request, one) for one in found[:limit]))
    return await compressed(request, ContextPage(views, token))


@router.put("/contexts/{name}", openapi_extra=schema(ContextBody), responses=answers(Context, 200, 201))
async def put_context(
    request: Request, principal: AnyKey, name: str, expected: Unchanged, absent: Absent, tenant: Tenant = None
) -> Response:
    """Makes or replaces it; it is computed afterwards and held, within the tenant's budget (409 when full)."""
    body = await read_json(request, ContextBody)
    _check_priority(principal, body.priority)
    key = (await _known_owner(request, principal, body.tenant or tenant), check_name(name))
    async with within_limits(request, principal) as claim:
        definition = await _definition(request, key, body, claim)
        rooms = await _keeper(request).rooms(key[0] or None)
        precondition = Precondition(expected.if_match, absent.if_none_match)
        changes = _services(request).contexts.changes
        is_new = await changes.put(key, definition, rooms, precondition, principal.actor)
    return await _shown(request, key, 201 if is_new else 200)


@router.get("/contexts/{name}", responses=answers(Context))
async def get_context(request: Request, principal: AnyKey, name: str, tenant: Tenant = None) -> Response:
    """What the engine has of it now."""
    return await _shown(request, (_owner(principal, tenant), name))


@router.patch("/contexts/{name}", openapi_extra=schema(ContextPatch), responses=answers(Context))
async def change_context(
    request: Request, principal: AnyKey, name: str, expected: Unchanged, tenant: Tenant = None
) -> Response:
    """Of the fields that are sent; what is not yet computed of it is computed."""
    patch = await read_json(request, ContextPatch)
    _check_priority(principal, patch.priority)
    before = _entry(request, (_owner(principal, tenant), name))
    async with within_limits(request, principal) as claim:
        definition = await _definition(request, before.key, patch.onto(before.definition), claim)
        rooms = await _keeper(request).rooms(before.tenant)
        changes = _services(request).contexts.changes
        await changes.amend(before, definition, rooms, patch.renews, expected, principal.actor)
    return await _shown(request, before.key)


@router.delete("/contexts/{name}", status_code=204)
async def delete_context(
    request: Request, principal: AnyKey, name: str, expected: Unchanged, tenant: Tenant = None
) -> Response:
    """Its blocks are held no more; requests that name it are a 404."""
    key = (_owner(principal, tenant), name)
    await _services(request).contexts.changes.remove(key, expected, principal.actor)
    return Response(status_code=204)


async def _definition(request: Request, key: ContextKey, body: ContextBody, claim: Claim) -> ContextDefinition:
    """Counted, and its adapters looked up; the claim takes the tokens of what has to be computed for it.
    Raises InvalidRequest, AdapterNotFound, LimitReached."""
    services = _services(request)
    definition = body.definition()
    owner = await _keeper(request).owners.principal(key[0] or None)
    with as_problems():
        groups = [_groups_of(services, owner, model) for model in definition.adapters or (None,)]
        counts = {group: await _count(definition, group) for group in set().union(*groups)}
    present = services.contexts.book.find(key)
    if present is None or not definition.is_computed_as(present.definition):
        await claim.prompt(sum(counts[group] for of_model in groups for group in of_model))
    tokens_of = {group.base_digest: tokens for group, tokens in counts.items()}
    return replace(definition, tokens_of=tokens_of, tokens=max(tokens_of.values()))


def _groups_of(services: Services, owner: Principal, model: str | None) -> set[Group]:
    """All that the versions belong to which a context's model may mean. Raises ApiError."""
    registry, enable_lora = services.registry, services.settings.enable_lora
    return {target.group for target in context_targets(registry, services.groups, owner, model, enable_lora)}


async def _count(definition: ContextDefinition, group: Group) -> int:
    """Tokens of the context. Raises ApiError."""
    return len(await context_ids(definition.content, group.model, group.max_model_len))


def _check_priority(principal: Principal, asked: int | UnsetType) -> None:
    """Raises Forbidden."""
    if asked is not UNSET and asked < 0 and not principal.is_admin:
        raise Forbidden("A priority below 0 needs an admin key.")


def _owner(principal: Principal, tenant: str | None) -> str:
    """tenant: that the request names. "" is the admins' own. Raises Forbidden."""
    if principal.is_admin:
        return tenant or ""
    if tenant not in (None, principal.tenant):
        raise Forbidden("Contexts of other tenants need an admin key.")
    assert principal.tenant is not None, "keys that are no admin's have a tenant"
    return principal.tenant


async def _known_owner(request: Request, principal: Principal, tenant: str | None) -> str:
    """As _owner, of a tenant that exists. Raises InvalidRequest, Forbidden."""
    owner = _owner(principal, tenant)
    try:
        await _keeper(request).owners.principal(owner or None)
    except TenantNotFound as error:
        raise InvalidRequest(error.detail, pointer="/tenant") from None
    return owner


def _place(page_token: str) -> ContextKey:
    tenant, slash, name = decode_token(page_token).partition("/")
    if not slash:
        raise InvalidRequest("page_token is not one that this server gave.", pointer="page_token")
    return tenant, name


def _entry(request: Request, key: ContextKey) -> ContextEntry:
    entry = _services(request).contexts.book.find(key)
    if entry is None:
        raise no_context(key[1])
    return entry


async def _shown(request: Request, key: ContextKey, status: int = 200) -> Response:
    return resource(request, await _view(request, _entry(request, key)), status)


async def _view(request: Request, entry: ContextEntry) -> Context:
    return await context_view(_services(request), _keeper(request), entry)


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def _keeper(request: Request) -> ContextKeeper:
    return cast(ContextKeeper, request.app.state.keeper)
