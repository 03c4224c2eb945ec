"""Computes contexts on a version that an alias is about to mean, before it does; the keeper holds them afterwards."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.engine import EngineHandle
from multiflora_platform.gateway.background.context_prompts import context_ids, names_adapter
from multiflora_platform.gateway.background.warming import cache_principal, warm_prompt
from multiflora_platform.groups import ServedModel

_log = logging.getLogger(__name__)


class ContextWarmer:
    """`run` is the registry's WarmContexts."""

    def __init__(self, engine: EngineHandle, model: ServedModel, keys: KeyStore, book: ContextBook) -> None:
        self._engine = engine
        self._model = model
        self._keys = keys
        self._book = book

    async def run(self, adapter: str, digest: str) -> None:
        """One after the other, the most urgent first; one that fails is logged. Raises EngineUnavailable; the caller
        bounds the time."""
        now = datetime.now(UTC)
        live = (one for one in self._book.all() if not one.is_over(now))
        named = [one for one in live if any(self._names(model, adapter) for model in one.definition.adapters)]
        for entry in sorted(named, key=lambda one: (one.definition.priority, one.id)):
            try:
                ids = await context_ids(entry.definition.content, self._model, self._model.longest(self._engine))
                principal = await cache_principal(self._keys, entry.tenant)
                priority = entry.definition.priority
                await warm_prompt(self._engine.each(), self._keys, digest, ids, principal, priority)
            except EngineUnavailable:
                raise
            except Exception as error:
                _log.warning("the context %s is not warm on the next version: %s", "/".join(entry.key), error)

    def _names(self, model: str, adapter: str) -> bool:
        return names_adapter(self._model.known_as(model), adapter)
