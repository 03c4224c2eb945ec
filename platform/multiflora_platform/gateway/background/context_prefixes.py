"""Contexts as prefixes of blocks on one base model: their tokens, and what its engines have of them.

Asks the engine; computes and holds nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple, Protocol

from multiflora_engine.cache.block_hashes import hashes_behind, identity
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import UsageLedger
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.contexts.service import Contexts
from multiflora_platform.gateway.background.context_prompts import context_ids
from multiflora_platform.gateway.generation.start import cache_scope
from multiflora_platform.groups import Group, Groups
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.snapshot.snapshot import Snapshot
from multiflora_platform.settings import Settings
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import ApiError


class KeeperParts(Protocol):
    """What keeping contexts takes of the server's parts."""

    settings: Settings
    groups: Groups
    registry: Registry
    keys: KeyStore
    contexts: Contexts
    usage: UsageLedger
    metrics: Metrics


@dataclass
class ContextPrefix:
    """One context on one digest, as the keeper last found it."""

    hashes: list[bytes]
    """Of its whole blocks."""
    root: bytes
    """The parent of the first: of what the KV is known by, and of the tenant's salt."""
    lives: tuple[tuple[str, int], ...]
    """Of the engines that were ready: each replica's id and epoch."""
    is_whole: bool = False
    """All of it was cached when it was last looked at."""
    was_whole: bool = False
    """It was, since each engine's start: what is missing now was evicted or dropped."""
    is_computing: bool = False
    look_at: float = 0.0
    """time.monotonic(); not before."""
    error: str | None = None

    @property
    def is_wanted(self) -> bool:
        """It is being computed, or waits to be for the first time."""
        return self.is_computing or not (self.was_whole or self.error)


class Surroundings(NamedTuple):
    """What decides what is wanted of every context on a base model, and of which engines."""

    snapshot: Snapshot
    groups: tuple[Group, ...]
    lives: tuple[tuple[str, int], ...]

    def are_as(self, other: Surroundings) -> bool:
        return self.snapshot is other.snapshot and self[1:] == other[1:]


@dataclass
class KeptContext:
    """A context as a keeper has it for its base model."""

    entry: ContextEntry
    ids: list[int] | None = None
    """None: not read yet, or they cannot be made."""
    error: str | None = None
    """Why they cannot be made."""
    prefixes: dict[str | None, ContextPrefix] = field(default_factory=dict)
    """By digest; of those of its base model that its adapters mean now."""
    tended_for: tuple[datetime, Principal] | None = None
    """When it had been changed, and for whom it was, as it was tended last; None: not yet."""

    def is_due(self, owner: Principal) -> bool:
        """In surroundings that are the same as before. owner: as it is now."""
        if self.tended_for != (self.entry.updated_at, owner):
            return True
        now = time.monotonic()
        return any(now >= prefix.look_at for prefix in self.prefixes.values())


class ContextPrefixes:
    """Of all contexts that have to do with one base model."""

    def __init__(self, parts: KeeperParts, group: Group) -> None:
        self._parts = parts
        self._group = group
        self._kept: dict[int, KeptContext] = {}

    def of(self, entry: ContextEntry) -> KeptContext:
        """All of it is unknown again after a change of the context."""
        known = self._kept.get(entry.id)
        if known is None or known.entry.definition != entry.definition:
            known = self._kept[entry.id] = KeptContext(entry)
        known.entry = entry
        return known

    def surroundings(self) -> Surroundings:
        return Surroundings(self._parts.registry.snapshot, tuple(self._parts.groups), self._lives())

    def forget_all_but(self, entries: Sequence[ContextEntry]) -> None:
        ids = {entry.id for entry in entries}
        for id in [id for id in self._kept if id not in ids]:
            del self._kept[id]

    async def ids(self, kept: KeptContext) -> list[int] | None:
        if kept.ids is None and kept.error is None:
            model, content = self._group.model, kept.entry.definition.content
            try:
                kept.ids = await context_ids(content, model, self._group.max_model_len)
            except ApiError as error:
                kept.error = error.message
        return kept.ids

    async def prefix(
        self, kept: KeptContext, digest: str | None, ids: list[int], principal: Principal
    ) -> ContextPrefix:
        """Another one once other engines are ready: one that began has computed nothing, and evicted nothing. A tenant
        that begins to share its prefixes has another salt."""
        registry, salt = self._parts.registry, cache_scope(self._parts.keys, principal).salt
        reach = registry.snapshot.kv_reach(digest)
        root, activation, _ = identity(self._group.base_digest, reach, salt, ids)
        lives = self._lives()
        prefix = kept.prefixes.get(digest)
        if prefix is None or (prefix.root, prefix.lives) != (root, lives):
            hashes = await off_loop(len(ids), partial(hashes_behind, root, ids, self.block_size, 0, activation))
            prefix = kept.prefixes[digest] = ContextPrefix(hashes, root, lives)
        return prefix

    def adapter(self, digest: str | None) -> str | None:
        """Whose version it is; None: the base's, or of one that is gone."""
        versions = self._parts.registry.snapshot.versions_by_digest.get(digest or "")
        return versions[0].rpartition("@")[0] if versions else None

    async def found(self, prefix: ContextPrefix) -> int:
        """Blocks that are cached on every engine, from the first one on. Raises EngineUnavailable."""
        if not prefix.hashes:
            return 0
        chain = b"".join(prefix.hashes)
        engines = self._group.engine.each()
        return min(reply.found for reply in await asyncio.gather(*(one.cache("find", chain=chain) for one in engines)))

    def _lives(self) -> tuple[tuple[str, int], ...]:
        return tuple((one.id, one.epoch) for one in self._group.engine.replicas if one.ready is not None)

    @property
    def block_size(self) -> int:
        ready = self._group.engine.ready
        return self._parts.settings.block_size if ready is None else ready.block_size
