"""A context as its clients see it: what engines have of it now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.context_schemas import Context, ContextAdapter, ContextStatus, together
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.gateway.background.context_prefixes import ContextPrefix, KeeperParts
from multiflora_platform.gateway.background.context_prompts import ContextTarget, context_targets
from multiflora_platform.gateway.background.group_keeper import GroupKeeper
from multiflora_platform.groups import Group
from multiflora_platform.prices import prices_of
from multiflora_platform.web.etags import etag_of
from multiflora_platform.web.openai_errors import ApiError

_NOT_READY = "The engine is not ready; it is starting or restarting."
_ASLEEP = "The base model is idle: it is computed once a request has started its engines."


async def context_view(parts: KeeperParts, keeper: ContextKeeper, entry: ContextEntry) -> Context:
    """Where engines cannot be asked, nothing is cached."""
    principal = await keeper.owners.principal(entry.tenant)
    models = {model or parts.groups.default.name: model for model in entry.definition.adapters or (None,)}
    found: dict[str, _Found] = {}
    for name, model in models.items():
        try:
            found[name] = await _find(parts, keeper, entry, model, principal)
        except ApiError as error:
            found[name] = _Found(ContextAdapter("cold", 0, error=error.message), [])
    adapters = {name: one.view for name, one in found.items()}
    prefixes = [prefix for one in found.values() for prefix in one.prefixes]
    use, prices, definition = parts.contexts.book.use(entry), prices_of(parts.settings), entry.definition
    saved, again = use.saved_us / 1e6, use.again_us / 1e6
    status = together([one.status for one in adapters.values()])
    observed: dict[str, Any] = {
        "status": status,
        "tokens": max((prefix.tokens for prefix in prefixes), default=definition.tokens),
        "cached_tokens": min(one.cached_tokens for one in adapters.values()),
        "bytes": sum(prefix.bytes for prefix in prefixes),
        "held": status == "warm" and entry.is_pinned(datetime.now(UTC)) and all(prefix.held for prefix in prefixes),
        "hits": use.hits,
        "found_tokens": use.found_tokens,
        "saved_seconds": saved,
        "seconds_again": again,
    }
    seen = {**observed, "adapters": {name: (one.status, one.cached_tokens) for name, one in adapters.items()}}
    return Context(
        name=entry.name,
        tenant=entry.tenant,
        adapters=adapters,
        ttl=definition.ttl,
        pin=definition.pin,
        priority=definition.priority,
        expires_at=entry.expires_at.isoformat() if entry.expires_at else None,
        created_by=entry.created_by,
        created_at=entry.created_at.isoformat(),
        stored_token_hours=use.stored_token_seconds / 3600,
        money=None if prices is None else prices.of_context(use.found_tokens, saved, again, use.stored_token_seconds),
        updated_at=entry.updated_at.isoformat(),
        etag=etag_of(entry.state, seen),
        **observed,
    )


class _Prefix(NamedTuple):
    """What the engines of one base model have of a context, for one of its versions."""

    base: str
    status: ContextStatus
    tokens: int
    """Of the context."""
    cached_tokens: int
    bytes: int
    held: bool
    error: str | None


class _Found(NamedTuple):
    """For one of a context's models, and each of the versions that it may mean."""

    view: ContextAdapter
    prefixes: list[_Prefix]


async def _find(
    parts: KeeperParts, keeper: ContextKeeper, entry: ContextEntry, model: str | None, principal: Principal
) -> _Found:
    """Raises ApiError."""
    targets = context_targets(parts.registry, parts.groups, principal, model, parts.settings.enable_lora)
    found = [await _prefix(keeper.of(target.group), target, entry, principal) for target in targets]
    view = ContextAdapter(
        together([one.status for one in found]),
        min(one.cached_tokens for one in found),
        list(dict.fromkeys(one.base for one in found)),
        next((one.error for one in found if one.error), None),
    )
    return _Found(view, found)


async def _prefix(keeper: GroupKeeper, target: ContextTarget, entry: ContextEntry, principal: Principal) -> _Prefix:
    group, prefixes, kept = target.group, keeper.prefixes, keeper.prefixes.of(entry)
    ids, ready = await prefixes.ids(kept), group.engine.ready
    if ids is None:
        return _cold(group, entry, 0, kept.error)
    if ready is None:
        return _cold(group, entry, len(ids), _ASLEEP if group.asleep else _NOT_READY)
    prefix = await prefixes.prefix(kept, target.digest, ids, principal)
    try:
        found = await prefixes.found(prefix)
    except EngineUnavailable as error:
        return _cold(group, entry, len(ids), error.message)
    return _Prefix(
        group.name,
        _status(prefix, found, entry),
        len(ids),
        found * ready.block_size,
        found * (ready.kv_bytes // max(1, ready.num_blocks)),
        keeper.is_held(kept),
        prefix.error if found < len(prefix.hashes) else None,
    )


def _cold(group: Group, entry: ContextEntry, tokens: int, error: str | None) -> _Prefix:
    return _Prefix(group.name, "cold", tokens or entry.definition.tokens_on(group.base_digest), 0, 0, False, error)


def _status(prefix: ContextPrefix, found: int, entry: ContextEntry) -> ContextStatus:
    if found == len(prefix.hashes):
        return "warm"
    if prefix.is_wanted and not entry.is_over(datetime.now(UTC)):
        return "computing"
    return "partial" if found else "cold"
