"""Counts what contexts and marks take: tokens that are held, and what computing contexts costs their tenants."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from multiflora_platform.contexts.context_use import ContextUse
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.contexts.holds import PrefixHolds
from multiflora_platform.gateway.background.context_prefixes import ContextPrefix, KeeperParts
from multiflora_platform.gateway.background.warming import Warmed
from multiflora_platform.groups import Group

CONTEXT = "context"
"""The kind of holders that are contexts; the number beside it is the context's id."""


class HoldMeter:
    """Of one base model. `count` it now and then: each hold is taken to have been there since the last time."""

    def __init__(
        self, parts: KeeperParts, group: Group, holds: PrefixHolds, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = parts
        self._group = group
        self._holds = holds
        self._clock = clock
        self._at = clock()

    def count(self) -> None:
        now = self._clock()
        elapsed, self._at = now - self._at, now
        ready = self._group.engine.ready
        if ready is None:
            return
        metrics = self._parts.metrics.of(self._group.name)
        for held in self._holds.held():
            token_seconds = round(held.blocks * ready.block_size * elapsed)
            self._parts.usage.row(held.tenant, held.adapter).stored_token_seconds += token_seconds
            metrics.held(held.adapter, token_seconds)
            kind, id, _ = held.holder
            if kind == CONTEXT:
                self._parts.contexts.book.count(id, ContextUse(stored_token_seconds=token_seconds))

    def computed(
        self, entry: ContextEntry, adapter: str | None, prefix: ContextPrefix, warmed: Sequence[Warmed]
    ) -> None:
        """On each engine, as a prompt is counted, but for the request that there was not."""
        again = 0
        for one in warmed:
            row = self._parts.usage.row(entry.tenant, adapter)
            row.prompt_tokens += one.tokens
            row.cached_tokens += one.cached_tokens
            row.cache_write_tokens += one.written_tokens
            device_us = round(one.device_seconds * 1e6)
            row.device_us += device_us
            if prefix.was_whole:
                row.again_us += device_us
                again += device_us
        self._parts.contexts.book.count(entry.id, ContextUse(again_us=again))
