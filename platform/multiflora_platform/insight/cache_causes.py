"""Why the prefix cache had no more of a prompt, in the words of the header `x-cache-reason`.

Does not know how a cause is explained to people (misses.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from multiflora_platform.insight.kept_prompts import KeptPrompts
from multiflora_platform.insight.logged_request import LoggedRequest

# That another one has cached the same beginning is not for a tenant to know: it could try texts until one hits.
_OF_OTHERS = ("other_tenant", "other_adapter")


def cause_of(entry: LoggedRequest, block_size: int, prompts: KeptPrompts) -> str | None:
    """One word; "none" where the cache had all that it could have. None before the engine has begun the prompt."""
    if entry.first_at is None:
        return None
    if not entry.miss_reason:
        # The last token is always computed, so that it is no part of what can be found.
        return "too_short" if entry.facts.prompt_tokens <= block_size else "none"
    facts, reason = entry.facts, entry.miss_reason
    if facts.tenant is None or reason not in _OF_OTHERS:
        return reason
    is_own = reason == "other_adapter" and prompts.has_twin(facts.id, facts.tenant, block_size)
    return reason if is_own else "first_seen"


def first_miss(causes: Iterable[str | None]) -> str | None:
    """Of a request's prompts, in their order: the first that missed something, otherwise what all have."""
    known = [cause for cause in causes if cause is not None]
    return next((cause for cause in known if cause not in ("none", "too_short")), known[0] if known else None)
