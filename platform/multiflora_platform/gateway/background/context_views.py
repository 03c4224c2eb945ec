"""A context as its clients see it: what the engine has of it now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.context_schemas import Context, ContextAdapter, ContextStatus, together
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.gateway.background.context_prefixes import ContextPrefix, KeeperParts, KeptContext
from multiflora_platform.prices import prices_of
from multiflora_platform.web.etags import etag_of
from multiflora_platform.web.openai_errors import ApiError


async def context_view(parts: KeeperParts, keeper: ContextKeeper, entry: ContextEntry) -> Context:
    """Where the engine cannot be asked, nothing is cached."""
    kept = keeper.prefixes.of(entry)
    ids = await keeper.prefixes.ids(kept)
    principal = await keeper.prefixes.principal(entry.tenant)
    models = {model or parts.model.name: model for model in entry.definition.adapters or (None,)}
    adapters: dict[str, ContextAdapter] = {}
    blocks = 0
    for name, model in models.items():
        try:
            adapters[name], found = await _adapter(parts, keeper, kept, model, principal)
            blocks += found
        except (ApiError, EngineUnavailable) as error:
            adapters[name] = ContextAdapter("cold", 0, error.message)
    use, prices = parts.contexts.book.use(entry), prices_of(parts.settings)
    saved, again = use.saved_us / 1e6, use.again_us / 1e6
    status = together([one.status for one in adapters.values()])
    ready, definition, now = parts.engine.ready, entry.definition, datetime.now(UTC)
    observed: dict[str, Any] = {
        "status": status,
        "tokens": definition.tokens if ids is None else len(ids),
        "cached_tokens": min(one.cached_tokens for one in adapters.values()),
        "bytes": 0 if ready is None else blocks * (ready.kv_bytes // max(1, ready.num_blocks)),
        "held": entry.is_pinned(now) and status == "warm" and keeper.is_held(kept),
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


async def _adapter(
    parts: KeeperParts, keeper: ContextKeeper, kept: KeptContext, model: str | None, principal: Principal
) -> tuple[ContextAdapter, int]:
    """For one of its models, with the blocks that are cached for it. Raises ApiError, EngineUnavailable."""
    if parts.engine.ready is None:
        return ContextAdapter("cold", 0, "The engine is not ready; it is starting or restarting."), 0
    if kept.ids is None:
        return ContextAdapter("cold", 0, kept.error), 0
    prefixes = keeper.prefixes
    states: list[ContextStatus] = []
    counts: list[int] = []
    error = None
    for digest in prefixes.digests(principal, model):
        prefix = await prefixes.prefix(kept, digest, kept.ids, principal)
        counts.append(await prefixes.found(prefix))
        states.append(_status(prefix, counts[-1], kept.entry))
        error = error or (prefix.error if counts[-1] < len(prefix.hashes) else None)
    return ContextAdapter(together(states), min(counts) * prefixes.block_size, error), sum(counts)


def _status(prefix: ContextPrefix, found: int, entry: ContextEntry) -> ContextStatus:
    if found == len(prefix.hashes):
        return "warm"
    if prefix.is_wanted and not entry.is_over(datetime.now(UTC)):
        return "computing"
    return "partial" if found else "cold"
