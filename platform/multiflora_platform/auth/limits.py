"""How much a tenant may ask for right now: token buckets for requests and tokens, and a count of what runs.

In memory, so each server process has its own. Knows principals and policies; not HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from multiflora_platform.auth.principals import Principal
from multiflora_platform.web.refusals import LimitReached

Clock = Callable[[], float]


class Bucket:
    """Holds up to a minute's allowance and refills evenly. It may go below zero: what was used is owed."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    @property
    def level(self) -> float:
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def resize(self, per_minute: int) -> None:
        """What is left stays, up to the new size."""
        self._level = min(self.level, per_minute)
        self.per_minute = per_minute

    def take(self, amount: float) -> None:
        self._level = self.level - amount

    def seconds_until(self, amount: float) -> float:
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


@dataclass
class _Account:
    """One tenant's; the buckets follow its policy, None where that has no limit."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    # Claims that are not closed.
    running: int = 0


class Claim:
    """One admitted request. `prompt` before it runs, `generated` as it goes, `close` in the end."""

    def __init__(self, account: _Account) -> None:
        self._account = account
        self._closed = False
        self._taken = 0

    def prompt(self, count: int) -> None:
        """Raises LimitReached when the minute's tokens are used up, or are fewer than these."""
        bucket = self._account.tokens
        if bucket is None:
            return
        if count > bucket.per_minute:
            message = f"The prompt has {count} tokens; the tenant's limit is {bucket.per_minute} tokens per minute."
            raise LimitReached(f"{message} Send a shorter one.", 60)
        if bucket.level < count:
            message = f"The tenant's limit of {bucket.per_minute} tokens per minute is reached; try again later."
            raise LimitReached(message, bucket.seconds_until(count))
        bucket.take(count)
        self._taken += count

    def give_back(self) -> None:
        """What prompts took: nothing was computed for them after all."""
        if self._account.tokens is not None:
            self._account.tokens.take(-self._taken)
        self._taken = 0

    def generated(self, count: int) -> None:
        if self._account.tokens is not None:
            self._account.tokens.take(count)

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self._account.running -= 1


class Limits:
    """The accounts of all tenants. A policy that changes counts from the next request on."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[int | None, _Account] = {}

    def admit(self, principal: Principal) -> Claim:
        """Raises LimitReached; a refused request takes nothing."""
        account, policy = self._account(principal), principal.policy
        if policy.max_concurrent_requests is not None and account.running >= policy.max_concurrent_requests:
            message = f"The tenant runs {account.running} requests, which is its limit; wait until one has ended."
            raise LimitReached(message, 1)
        if account.requests is not None:
            if account.requests.level < 1:
                message = f"The tenant's limit of {account.requests.per_minute} requests per minute is reached"
                raise LimitReached(f"{message}; try again later.", account.requests.seconds_until(1))
            account.requests.take(1)
        account.running += 1
        return Claim(account)

    def headers(self, principal: Principal) -> dict[str, str]:
        """OpenAI's x-ratelimit-…, of the limits that there are."""
        account = self._account(principal)
        found = {}
        for kind, bucket in (("requests", account.requests), ("tokens", account.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level)))
                found[f"x-ratelimit-reset-{kind}"] = duration(bucket.seconds_until(bucket.per_minute))
        return found

    def _account(self, principal: Principal) -> _Account:
        account = self._accounts.setdefault(principal.tenant_id, _Account())
        account.requests = self._sized(account.requests, principal.policy.requests_per_minute)
        account.tokens = self._sized(account.tokens, principal.policy.tokens_per_minute)
        return account

    def _sized(self, bucket: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        if bucket is None:
            return Bucket(per_minute, self._clock)
        if bucket.per_minute != per_minute:
            bucket.resize(per_minute)
        return bucket


def duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
