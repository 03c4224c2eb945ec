"""A feed's changes as other programs get them, over HTTP and ZeroMQ alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_platform.insight.mirrors.cache_feed import CacheFeed, NumberedChange
from multiflora_platform.insight.views.cache import CacheEvent

Owners = Callable[[], Mapping[str, str | None]]
"""The tenants' names, by how the engine knows them."""


def shown(feed: CacheFeed, owners: Owners, changes: Sequence[NumberedChange]) -> list[CacheEvent]:
    names = owners()
    return [_one(change, names, feed.block_size) for change in changes]


def _one(event: NumberedChange, owners: Mapping[str, str | None], block_size: int) -> CacheEvent:
    change = event.change
    if change is None:
        return CacheEvent(event.seq, "cleared", [], None, 0, None, None)
    hashes = change.hashes.hex(" ", HASH_BYTES).split()
    return CacheEvent(
        seq=event.seq,
        type="removed" if change.is_removal else "stored",
        hashes=hashes,
        parent=change.parent.hex() or None,
        tokens=len(hashes) * block_size,
        adapter_digest=change.adapter,
        owner=owners.get(change.owner, change.owner) or None,
    )
