"""What an operator charges for the device's time and for cached tokens, and sums of both in money. Knows no usage."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from multiflora_platform.settings import Settings


class SavedMoney(msgspec.Struct, frozen=True, kw_only=True):
    """In `currency`, estimated from what prefills took. saved: what computing the tokens that the prefix cache had
    would have cost, less what they cost from there. computed_again: for computing what had been cached and was
    evicted."""

    currency: str
    saved: float
    computed_again: float


class Money(SavedMoney, frozen=True, kw_only=True):
    """device: for the device's time, `computed_again` included. cached: for tokens that the prefix cache had."""

    device: float
    cached: float


@dataclass(frozen=True)
class Prices:
    """currency: three letters. device_second, cached_token: of one, at least 0."""

    currency: str
    device_second: float = 0.0
    cached_token: float = 0.0

    def savings(self, cached_tokens: int, saved_seconds: float, seconds_again: float) -> SavedMoney:
        """saved_seconds, seconds_again: of the device, for the cached tokens, had they been computed, and for those
        that were evicted and computed again."""
        return SavedMoney(
            currency=self.currency,
            saved=saved_seconds * self.device_second - cached_tokens * self.cached_token,
            computed_again=seconds_again * self.device_second,
        )

    def money(self, device_seconds: float, cached_tokens: int, saved_seconds: float, seconds_again: float) -> Money:
        """device_seconds: that were used; the others as in `savings`."""
        savings = self.savings(cached_tokens, saved_seconds, seconds_again)
        return Money(
            currency=self.currency,
            device=device_seconds * self.device_second,
            cached=cached_tokens * self.cached_token,
            saved=savings.saved,
            computed_again=savings.computed_again,
        )


def prices_of(settings: Settings) -> Prices | None:
    """None: there are none, and nothing is told in money."""
    device, cached = settings.price_per_device_second, settings.price_per_cached_token
    if device is None and cached is None:
        return None
    return Prices(settings.currency, device or 0.0, cached or 0.0)
