"""Whether copies come sooner than computing: what both took lately decides. Knows tiers by name, bytes and seconds."""

from __future__ import annotations

from collections.abc import Mapping

_NEWEST = 0.25
# After so many times that computing was sooner, loading is tried: it may have become faster.
_TRIED_AGAIN = 32


class _Rate:
    """Something per second, the newest measurement weighing most. None: nothing was measured."""

    def __init__(self) -> None:
        self.value: float | None = None

    def note(self, amount: float, seconds: float) -> None:
        measured = amount / max(seconds, 1e-9)
        self.value = measured if self.value is None else self.value + (measured - self.value) * _NEWEST


class TransferCost:
    """Bytes per second of each tier's loads, and tokens per second of prompts."""

    def __init__(self) -> None:
        self._tiers: dict[str, _Rate] = {}
        self._computing = _Rate()
        self._declined = 0

    def note_loaded(self, tier: str, num_bytes: int, seconds: float) -> None:
        self._tiers.setdefault(tier, _Rate()).note(num_bytes, seconds)

    def note_computed(self, num_tokens: int, seconds: float) -> None:
        """Of a step that computed prompts."""
        self._computing.note(num_tokens, seconds)

    def bytes_per_second(self, tier: str) -> float:
        """0: nothing was measured."""
        rate = self._tiers.get(tier)
        return (rate and rate.value) or 0.0

    def pays(self, num_bytes: Mapping[str, int], backlog: int, num_tokens: int) -> bool:
        """Whether loading so many bytes from each tier, behind the backlog, comes sooner than computing the tokens."""
        if self._computing.value is None:
            return True
        rates = {tier: self.bytes_per_second(tier) for tier in num_bytes}
        known = [rate for rate in rates.values() if rate]
        if not known:
            return True
        seconds = sum(num_bytes[tier] / rate for tier, rate in rates.items() if rate) + backlog / min(known)
        if seconds < num_tokens / self._computing.value or self._declined >= _TRIED_AGAIN:
            self._declined = 0
            return True
        self._declined += 1
        return False
