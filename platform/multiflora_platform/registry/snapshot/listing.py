"""Choosing and showing adapters from a snapshot: search, tags, pages. No database is asked."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from multiflora_platform.registry.snapshot.snapshot import AdapterEntry, AliasEntry, Snapshot
from multiflora_platform.web.etags import tagged
from multiflora_platform.web.pagination import decode_token, encode_token


@dataclass(frozen=True)
class AdapterListing:
    items: list[dict[str, Any]]
    next_page_token: str | None


def page(
    snapshot: Snapshot,
    limit: int,
    page_token: str | None,
    query: str | None,
    tag: str | None,
    visible: Callable[[AdapterEntry], bool],
) -> AdapterListing:
    """Adapters by name. query: a case-insensitive substring of name or description; the adapter of just this name
    comes first, however many others mention it. visible: whether the adapter is listed for who asks. Raises
    InvalidRequest."""
    named = snapshot.adapters.get(query) if query else None
    is_first = named and not page_token and _matches(named, query, tag) and visible(named)
    first = [named] if named and is_first else []
    room = limit - len(first)
    names = snapshot.sorted_names
    found: list[AdapterEntry] = []
    for name in names[bisect_right(names, decode_token(page_token)) if page_token else 0 :]:
        entry = snapshot.adapters[name]
        if entry is not named and _matches(entry, query, tag) and visible(entry):
            found.append(entry)
        if len(found) > room:
            break
    # Behind a page of `named` alone come all others: a space stands before every name.
    token = encode_token(found[room - 1].name if room else " ") if len(found) > room else None
    return AdapterListing([adapter_view(entry) for entry in [*first, *found[:room]]], token)


def adapter_view(entry: AdapterEntry) -> dict[str, Any]:
    view = {
        "name": entry.name,
        "description": entry.description,
        "tags": list(entry.tags),
        "demo_prompt": entry.demo_prompt,
        "warmup_prompts": msgspec.to_builtins(list(entry.warmup_prompts)),
        "owner": entry.owner,
        "aliases": {name: dict(alias.target) for name, alias in entry.aliases.items()},
        "ready_versions": sorted(entry.digests),
        "digests": {str(number): digest for number, digest in sorted(entry.digests.items())},
        "rank": max((shape.rank for shape in entry.shapes.values()), default=None),
        "created_at": entry.created_at.isoformat(),
        "updated_at": entry.updated_at.isoformat(),
    }
    return tagged(view)


def alias_view(adapter: str, alias: AliasEntry) -> dict[str, Any]:
    return {
        "adapter": adapter,
        "alias": alias.name,
        **alias.target,
        "rollback_to": alias.previous,
        "protected": alias.protected,
        "etag": alias.etag,
    }


def _matches(entry: AdapterEntry, query: str | None, tag: str | None) -> bool:
    if tag is not None and tag not in entry.tags:
        return False
    if not query:
        return True
    wanted = query.casefold()
    return wanted in entry.name.casefold() or wanted in entry.description.casefold()
