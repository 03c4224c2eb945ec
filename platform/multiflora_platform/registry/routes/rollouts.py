"""/api/v1/adapters/{name}/aliases/{alias}/rollout: a version on its way to all of an alias's users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response
from msgspec.structs import replace
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin, require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import RolloutNotFound
from multiflora_platform.registry.routes.access import actor_for, changeable, readable, registry_of
from multiflora_platform.registry.rows.aliases import MovePrecondition
from multiflora_platform.registry.schemas.rollouts import (
    NewRollout,
    Rollout,
    RolloutPage,
    RolloutPairPage,
    RolloutPatch,
    RolloutState,
    RolloutTimeline,
    check_steps,
)
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry
from multiflora_platform.storage.tables import LARGEST_NUMBER
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.pagination import LAST_ID, row_id
from multiflora_platform.web.resources import answers, compressed, resource

router = APIRouter(tags=["rollouts"])
AnyKey = Annotated[Principal, Depends(require_key)]
IfMatch = Annotated[str | None, Header()]
Limit = Annotated[int, Query(ge=1, le=1000)]
_PATH = "/adapters/{name}/aliases/{alias}/rollout"


@router.post(_PATH, status_code=201, openapi_extra=schema(NewRollout), responses=answers(Rollout, 201))
async def start_rollout(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """Send a part of the alias's users, or copies of their requests, to a candidate; needs the alias's If-Match."""
    entry = changeable(request, principal, name)
    body = (await read_json(request, NewRollout)).check()
    precondition = MovePrecondition(if_match, required=True, may_move_protected=principal.is_admin)
    started = await registry_of(request).rollouts.start(name, alias, body, precondition, principal.actor)
    return resource(request, _for(principal, entry, started), 201)


@router.get(_PATH, responses=answers(Rollout))
async def get_rollout(request: Request, principal: AnyKey, name: str, alias: str) -> Response:
    """The running one with what was observed until now, or the last that ran."""
    entry = readable(request, principal, name)
    return resource(request, _for(principal, entry, await registry_of(request).rollout_views.newest(name, alias)))


@router.get(_PATH + "s", responses=answers(RolloutPage))
async def list_rollouts(
    request: Request,
    principal: AnyKey,
    name: str,
    alias: str,
    limit: Limit = 50,
    page_token: str | None = None,
) -> Response:
    """Newest first."""
    entry = readable(request, principal, name)
    page = await registry_of(request).rollout_views.page(name, alias, _before(page_token), limit)
    return await compressed(request, replace(page, items=[_for(principal, entry, one) for one in page.items]))


@router.get(_PATH + "s/{rollout}/timeline", responses=answers(RolloutTimeline))
async def get_rollout_timeline(request: Request, principal: AnyKey, name: str, alias: str, rollout: str) -> Response:
    """Errors and latency of both versions since its start, as they were judged, with the bounds."""
    readable(request, principal, name)
    return await compressed(request, await registry_of(request).rollout_views.timeline(name, alias, _number(rollout)))


@router.get(_PATH + "s/{rollout}/pairs", responses=answers(RolloutPairPage))
async def list_rollout_pairs(
    request: Request,
    principal: AnyKey,
    name: str,
    alias: str,
    rollout: str,
    limit: Limit = 20,
    page_token: str | None = None,
) -> Response:
    """Prompts that both versions answered, and not alike; newest first. A tenant sees those of its own requests."""
    readable(request, principal, name)
    whose = None if principal.is_admin else principal.tenant
    before = row_id(page_token) if page_token else LAST_ID
    pairs = registry_of(request).rollout_views.pairs_page(name, alias, _number(rollout), whose, before, limit)
    return await compressed(request, await pairs)


@router.get("/rollouts", responses=answers(RolloutPage), dependencies=[Depends(require_admin)])
async def list_all_rollouts(
    request: Request,
    state: RolloutState | None = None,
    limit: Limit = 50,
    page_token: str | None = None,
) -> Response:
    """Of all adapters, newest first. state: only those that are in it."""
    page = await registry_of(request).rollout_views.page_of_all(state, _before(page_token), limit)
    return await compressed(request, page)


@router.patch(_PATH, openapi_extra=schema(RolloutPatch), responses=answers(Rollout))
async def change_rollout(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """Other shares or bounds; who is in the candidate's share stays in it when it grows."""
    entry = changeable(request, principal, name)
    fields = (await read_json(request, RolloutPatch)).fields
    check_steps(fields.get("steps", []))
    precondition = MovePrecondition(if_match, may_move_protected=principal.is_admin)
    changed = await registry_of(request).rollouts.adjust(name, alias, fields, precondition, principal.actor)
    return resource(request, _for(principal, entry, changed))


@router.post(_PATH + ":promote", responses=answers(Rollout))
async def promote_rollout(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """The candidate for every user."""
    entry = changeable(request, principal, name)
    precondition = MovePrecondition(if_match, may_move_protected=principal.is_admin)
    ended = await registry_of(request).rollouts.finish(name, alias, "promoted", precondition, principal.actor)
    return resource(request, _for(principal, entry, ended))


@router.post(_PATH + ":abort", responses=answers(Rollout))
async def abort_rollout(
    request: Request, principal: AnyKey, name: str, alias: str, if_match: IfMatch = None
) -> Response:
    """The stable version for every user."""
    entry = changeable(request, principal, name)
    precondition = MovePrecondition(if_match, may_move_protected=principal.is_admin)
    ended = await registry_of(request).rollouts.finish(name, alias, "aborted", precondition, principal.actor)
    return resource(request, _for(principal, entry, ended))


def _number(text: str) -> int:
    """Raises RolloutNotFound."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise RolloutNotFound(f"There is no rollout {text[:20]!r}.")
    return int(text)


def _before(page_token: str | None) -> int:
    return min(row_id(page_token), LARGEST_NUMBER) if page_token else LARGEST_NUMBER


def _for(principal: Principal, entry: AdapterEntry, rollout: Rollout) -> Rollout:
    """Other tenants that use the adapter are not told why it was started."""
    is_told = principal.is_admin or entry.owner == principal.tenant
    why = rollout.why if is_told else ""
    return replace(rollout, created_by=actor_for(principal, rollout.created_by), why=why)
