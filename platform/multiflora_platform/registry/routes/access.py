"""What every route of the registry needs from its request: the registry, and what its key may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from fastapi import Query
from starlette.requests import Request

from multiflora_platform.auth.dependencies import keys_of
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import AdapterNotFound, AliasProtected, VersionNotFound
from multiflora_platform.registry.schemas.fields import AdapterFields, WarmupPrompt
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.snapshot.missing_model import nearest_adapter
from multiflora_platform.registry.snapshot.snapshot import DEFAULT, AdapterEntry
from multiflora_platform.web.refusals import Forbidden

OneReplica = Annotated[str | None, Query(max_length=64, description="one engine's id; without it, all of them")]


def registry_of(request: Request) -> Registry:
    return cast(Registry, request.app.state.services.registry)


def readable(request: Request, principal: Principal, name: str) -> AdapterEntry:
    """The adapter, unless it does not exist for this principal. Raises AdapterNotFound."""
    snapshot = registry_of(request).snapshot
    entry = snapshot.adapters.get(name)
    if entry is None or not principal.may_use(name, entry.owner):
        nearest = nearest_adapter(snapshot, name, principal.may_use)
        hint = "" if nearest is None else f" Did you mean {nearest!r}?"
        raise AdapterNotFound(f"There is no adapter named {name[:80]!r}.{hint}")
    return entry


def changeable(request: Request, principal: Principal, name: str) -> AdapterEntry:
    """The adapter, if this principal may change it: admins all, a tenant its own. Raises AdapterNotFound, Forbidden."""
    entry = readable(request, principal, name)
    if not principal.is_admin and (principal.tenant is None or entry.owner != principal.tenant):
        raise Forbidden(f"Adapter {name!r} belongs to someone else.")
    return entry


def deletable(request: Request, principal: Principal, name: str) -> AdapterEntry:
    """As `changeable`; an adapter with a protected alias goes with an admin key only. Raises AliasProtected, too."""
    entry = changeable(request, principal, name)
    for alias in entry.aliases.values():
        if alias.protected and not principal.is_admin:
            raise AliasProtected(f"Alias {alias.name!r} is protected; only an admin key deletes this adapter.")
    return entry


def promotable(request: Request, principal: Principal, name: str) -> AdapterEntry:
    """As `changeable`, and so is its alias `default`. Raises AliasProtected, too."""
    entry = changeable(request, principal, name)
    default = entry.aliases.get(DEFAULT)
    if default is not None and default.protected and not principal.is_admin:
        raise AliasProtected("Alias 'default' is protected; only an admin key promotes.")
    return entry


async def check_warmed_tenants(request: Request, principal: Principal, fields: AdapterFields) -> None:
    """Only admins warm another tenant's part of the cache. Raises Forbidden, TenantNotFound."""
    for prompt in fields.warmup_prompts or ():
        tenant = prompt.tenant if isinstance(prompt, WarmupPrompt) else None
        if tenant is not None and not principal.is_admin and tenant != principal.tenant:
            raise Forbidden("Warming up for another tenant needs an admin key.")
        if tenant is not None:
            await keys_of(request).tenants.one(tenant)


def visible_adapters(request: Request, principal: Principal) -> list[int] | None:
    """Ids of the adapters that exist for this principal; None: all do."""
    if principal.is_admin:
        return None
    entries = registry_of(request).snapshot.adapters.values()
    return [entry.id for entry in entries if principal.may_use(entry.name, entry.owner)]


def listed(principal: Principal, entry: AdapterEntry) -> bool:
    """Others' adapters without a version that can be served are of no use to a tenant."""
    if not principal.may_use(entry.name, entry.owner):
        return False
    return principal.is_admin or (entry.owner is not None and entry.owner == principal.tenant) or bool(entry.digests)


def shown(principal: Principal, view: Mapping[str, Any]) -> dict[str, Any]:
    """A view of the registry as this principal may see it: a tenant learns neither the server's paths nor who others
    are, only that it was an admin, the server or another tenant."""
    seen = dict(view)
    if principal.is_admin:
        return seen
    for field in ("created_by", "actor"):
        if field in seen:
            seen[field] = actor_for(principal, seen[field])
    if seen.get("owner") != principal.tenant and "owner" in seen:
        seen["owner"] = None
    if "warmup_prompts" in seen:
        warmed = (None, principal.tenant)
        seen["warmup_prompts"] = [
            one for one in seen["warmup_prompts"] if isinstance(one, str) or one.get("tenant") in warmed
        ]
    if str(seen.get("source", "")).startswith("file:"):
        seen["source"] = "file:"
    return seen


def actor_for(principal: Principal, actor: str) -> str:
    role = actor.partition("/")[0]
    if principal.is_admin or role == principal.tenant:
        return actor
    return role if role in ("admin", "system") else "another tenant"


def version_number(text: str, name: str) -> int:
    """Of a path or query; what cannot be a version's number is one that does not exist."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise VersionNotFound(f"Adapter {name!r} has no version {text[:20]!r}.")
    return int(text)
