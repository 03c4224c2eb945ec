"""Why the prefix cache had no more of a prompt, in words. The reasons themselves are the engine's (CacheIndex)
and, of what an earlier life of it had, those of EarlierLives."""

from __future__ import annotations

from collections.abc import Iterable

from multiflora_platform.insight.views.misses import CacheExplanation, Loss, LossPage, Miss
from multiflora_platform.insight.views.requests import RequestView

_WORDS = {
    "first_seen": "No earlier prompt begins like this one.",
    "diverged": "The prompt begins like a cached one, and differs from token {cached} on.",
    "whole_prompt_asked": "It is cached, but prompt log-probabilities or a mean need every position computed.",
    "engine_restarted": "It was cached until the engine restarted, which begins with an empty cache.",
    "other_replica": "Another engine has computed the same beginning; each has a cache of its own.",
    "evicted": "It was cached, and gave way to others when KV blocks ran out.",
    "other_adapter": "The same beginning is cached for another adapter, whose KV differs.",
    "other_tenant": "The same beginning is cached for another tenant; tenants never share.",
    "other_salt": "The same beginning is cached under another cache_salt.",
}


def miss_of(request: RequestView) -> Miss | None:
    """None for a prompt whose whole blocks were all found, or that has none."""
    if request.miss_reason not in _WORDS:
        return None
    return Miss(
        request_id=request.id,
        at=request.at,
        model=request.model,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=request.cached_tokens,
        reason=request.miss_reason,
        detail=_WORDS[request.miss_reason].format(cached=request.cached_tokens),
    )


def losses_of(explained: Iterable[tuple[str, CacheExplanation | None]]) -> LossPage:
    """By cause. explained: of each miss its request's id, newest first; None: its prompt is not kept."""
    seen = list(explained)
    by_cause: dict[str, list[tuple[str, CacheExplanation]]] = {}
    for id, found in seen:
        if found is not None:
            by_cause.setdefault(found.cause, []).append((id, found))
    items = [
        Loss(
            cause=cause,
            prompts=len(of),
            lost_tokens=sum(one.lost_tokens for _, one in of),
            lost_seconds=sum(one.lost_seconds for _, one in of),
            elsewhere_tokens=sum(one.elsewhere_tokens for _, one in of),
            advice=of[0][1].advice,
            request_id=of[0][0],
        )
        for cause, of in by_cause.items()
    ]
    ranked = sorted(items, key=lambda item: (-item.lost_tokens, -item.elsewhere_tokens))
    return LossPage(ranked, len(seen), sum(found is None for _, found in seen))
