"""Counts what requests that name a context find of it."""

from __future__ import annotations

from collections.abc import Callable

from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.contexts.context_use import ContextUse
from multiflora_platform.observability.observers import Observer, PromptStart


class ContextMeter(Observer):
    """Of a prompt that begins with a context, which has so many tokens on its base model. seconds_per_token: of the
    device, for a token that is computed."""

    def __init__(self, book: ContextBook, id: int, tokens: int, seconds_per_token: Callable[[], float]) -> None:
        self._book = book
        self._id = id
        self._tokens = tokens
        self._seconds_per_token = seconds_per_token

    def started(self, start: PromptStart) -> None:
        per_token = self._seconds_per_token() * 1e6
        found = min(start.cached_tokens, self._tokens)
        again = min(start.evicted_tokens, self._tokens - found)
        use = ContextUse(found_tokens=found, saved_us=round(found * per_token), again_us=round(again * per_token))
        self._book.count(self._id, use)
