"""What an operator charges for the device's time, cached and stored tokens, and sums in money. Knows no usage."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec.structs import asdict

from multiflora_platform.settings import Settings

_SECONDS_AN_HOUR = 3600


class SavedMoney(msgspec.Struct, frozen=True, kw_only=True):
    """In `currency`, estimated from what prefills took. saved: what computing the tokens that the prefix cache had
    would have cost, less what they cost from there. computed_again: for computing what had been cached and was
    evicted."""

    currency: str
    saved: float
    computed_again: float


class ContextMoney(SavedMoney, frozen=True, kw_only=True):
    """Of a context. computed_again: what was lost of it, too. stored: for the time in which its tokens were held."""

    stored: float


class Money(SavedMoney, frozen=True, kw_only=True):
    """device: for the device's time, `computed_again` included. cached: for tokens that the prefix cache had. stored:
    for the time in which contexts and marks held tokens."""

    device: float
    cached: float
    stored: float


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one request: for its device time and the tokens that the prefix cache had, as far as it has got."""

    amount: float
    currency: str


@dataclass(frozen=True)
class Prices:
    """currency: three letters. device_second, cached_token, stored_token_hour: of one, at least 0."""

    currency: str
    device_second: float = 0.0
    cached_token: float = 0.0
    stored_token_hour: float = 0.0

    def savings(self, cached_tokens: int, saved_seconds: float, seconds_again: float) -> SavedMoney:
        """saved_seconds, seconds_again: of the device, for the cached tokens, had they been computed, and for those
        that were evicted and computed again."""
        return SavedMoney(
            currency=self.currency,
            saved=saved_seconds * self.device_second - cached_tokens * self.cached_token,
            computed_again=seconds_again * self.device_second,
        )

    def stored(self, token_seconds: int) -> float:
        """token_seconds: tokens, each for so many seconds."""
        return token_seconds / _SECONDS_AN_HOUR * self.stored_token_hour

    def of_context(
        self, cached_tokens: int, saved_seconds: float, seconds_again: float, token_seconds: int
    ) -> ContextMoney:
        """As in `savings` and `stored`."""
        savings = self.savings(cached_tokens, saved_seconds, seconds_again)
        return ContextMoney(**asdict(savings), stored=self.stored(token_seconds))

    def cost(self, device_seconds: float, cached_tokens: int, token_seconds: int) -> float:
        """What is charged for all of it; as in `money`."""
        return device_seconds * self.device_second + cached_tokens * self.cached_token + self.stored(token_seconds)

    def of_request(self, device_seconds: float, cached_tokens: int) -> Cost:
        """As in `money`."""
        return Cost(amount=self.cost(device_seconds, cached_tokens, 0), currency=self.currency)

    def money(
        self,
        device_seconds: float,
        cached_tokens: int,
        saved_seconds: float,
        seconds_again: float,
        token_seconds: int = 0,
    ) -> Money:
        """device_seconds: that were used; the others as in `savings` and `stored`."""
        return Money(
            **asdict(self.savings(cached_tokens, saved_seconds, seconds_again)),
            device=device_seconds * self.device_second,
            cached=cached_tokens * self.cached_token,
            stored=self.stored(token_seconds),
        )


def prices_of(settings: Settings) -> Prices | None:
    """None: there are none, and nothing is told in money."""
    prices = (
        settings.price_per_device_second,
        settings.price_per_cached_token,
        settings.price_per_stored_token_hour,
    )
    if all(price is None for price in prices):
        return None
    return Prices(settings.currency, *(price or 0.0 for price in prices))
