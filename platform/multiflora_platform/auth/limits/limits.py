"""What requests ask of a tenant's limits, wherever they are counted, and the words in which they are refused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from multiflora_platform.auth.principals import Principal
from multiflora_platform.web.refusals import LimitReached


class Claim(ABC):
    """One admitted request. `prompt` before it runs, `generated` as it goes, `close` in the end."""

    @abstractmethod
    async def prompt(self, count: int) -> None:
        """Raises LimitReached when the minute's tokens are used up, or are fewer than these; Unavailable."""

    @abstractmethod
    def give_back(self) -> None:
        """What prompts took: nothing was computed for them after all."""

    @abstractmethod
    def generated(self, count: int) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Idempotent."""


@dataclass(frozen=True)
class Standing:
    """Of a tenant's limits now; None for a limit that there is not. is_shared: of all servers on the database."""

    requests_left: float | None
    tokens_left: float | None
    running: int | None
    is_shared: bool


class Limits(ABC):
    """The limits of all tenants. A policy that changes counts from the next request on."""

    @abstractmethod
    async def admit(self, principal: Principal) -> Claim:
        """Raises LimitReached; Unavailable where other servers' counts cannot be asked for. A refused request takes
        nothing."""

    @abstractmethod
    def headers(self, principal: Principal) -> dict[str, str]:
        """OpenAI's x-ratelimit-…, of the limits that there are."""

    @abstractmethod
    async def standing(self, principal: Principal) -> Standing:
        """Raises Unavailable."""

    @abstractmethod
    async def close(self) -> None:
        """What is held is given back."""


class LimitsBehind(Limits):
    """Limits that a subclass stands before: it says what else there is to admitting a request."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def headers(self, principal: Principal) -> dict[str, str]:
        return self._limits.headers(principal)

    async def standing(self, principal: Principal) -> Standing:
        return await self._limits.standing(principal)

    async def close(self) -> None:
        await self._limits.close()


def too_many_at_once(running: int) -> LimitReached:
    """running: those that the tenant runs now."""
    message = f"The tenant runs {running} requests, which is its limit; wait until one has ended."
    return LimitReached("concurrent", message, 1)


def no_request_left(per_minute: int, seconds: float) -> LimitReached:
    """seconds: until there is one again."""
    message = f"The tenant's limit of {per_minute} requests per minute is reached; try again later."
    return LimitReached("requests", message, seconds)


def prompt_never_fits(count: int, per_minute: int) -> LimitReached:
    message = (
        f"The prompt has {count} tokens; the tenant's limit is {per_minute} tokens per minute. Send a shorter one."
    )
    return LimitReached("tokens", message, 60)


def too_few_tokens_left(per_minute: int, seconds: float) -> LimitReached:
    """seconds: until there are enough again."""
    message = f"The tenant's limit of {per_minute} tokens per minute is reached; try again later."
    return LimitReached("tokens", message, seconds)


def rate_headers(kind: str, per_minute: int, left: float) -> dict[str, str]:
    """kind: requests or tokens."""
    return {
        f"x-ratelimit-limit-{kind}": str(per_minute),
        f"x-ratelimit-remaining-{kind}": str(max(0, math.floor(left))),
        f"x-ratelimit-reset-{kind}": duration(max(0.0, (per_minute - left) * 60 / per_minute)),
    }


def duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
