"""Counts what requests that name a context find of it."""

from __future__ import annotations

from collections.abc import Callable

from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.contexts.context_use import ContextUse
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.observability.observers import Observer, PromptStart


class ContextMeter(Observer):
    """Of a prompt that begins with a context. seconds_per_token: of the device, for a token that is computed."""

    def __init__(self, book: ContextBook, entry: ContextEntry, seconds_per_token: Callable[[], float]) -> None:
        self._book = book
        self._entry = entry
        self._seconds_per_token = seconds_per_token

    def started(self, start: PromptStart) -> None:
        tokens, per_token = self._entry.definition.tokens, self._seconds_per_token() * 1e6
        found = min(start.cached_tokens, tokens)
        again = min(start.evicted_tokens, tokens - found)
        use = ContextUse(found_tokens=found, saved_us=round(found * per_token), again_us=round(again * per_token))
        self._book.count(self._entry.id, use)
