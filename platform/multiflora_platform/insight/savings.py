"""What the prefix cache saved of one base model's prompts since the server's start: by adapter, in device-seconds."""

from __future__ import annotations

from collections import Counter

from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.insight.views.cache import Saving
from multiflora_platform.prices import Prices


class Savings:
    def __init__(self) -> None:
        self._cached: Counter[str | None] = Counter()
        self._evicted: Counter[str | None] = Counter()
        self._computed = 0
        self._prefill_seconds = 0.0

    def prefilled(self, facts: PromptFacts, cached_tokens: int, seconds: float, evicted_tokens: int = 0) -> None:
        """A prompt took `seconds` of the device: its part, for prompts that are computed together share its time.
        evicted_tokens: those that were computed although they had been cached."""
        if cached_tokens:
            self._cached[facts.adapter] += cached_tokens
        if evicted_tokens:
            self._evicted[facts.adapter] += evicted_tokens
        self._computed += facts.prompt_tokens - cached_tokens
        self._prefill_seconds += seconds

    def seconds_per_token(self) -> float:
        """Of the device, for a prompt's token that is not cached: the mean of all prefills."""
        return self._prefill_seconds / self._computed if self._computed else 0.0

    def items(self, prices: Prices | None = None) -> list[Saving]:
        """By adapter, the most first; the device's time is estimated from what prefills of other tokens took."""
        by_most = [adapter for adapter, _ in self._cached.most_common()]
        return [self._item(adapter, prices) for adapter in dict.fromkeys([*by_most, *self._evicted])]

    def _item(self, adapter: str | None, prices: Prices | None) -> Saving:
        per_token = self.seconds_per_token()
        cached, again = self._cached[adapter], self._evicted[adapter]
        money = None if prices is None else prices.savings(cached, cached * per_token, again * per_token)
        return Saving(adapter, cached, cached * per_token, again, again * per_token, money)
