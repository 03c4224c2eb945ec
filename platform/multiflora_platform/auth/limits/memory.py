"""Limits that one server counts in its own memory: a restart fills them. Knows principals and policies; not HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass

from multiflora_platform.auth.limits.bucket import Bucket, Clock, sized
from multiflora_platform.auth.limits.limits import (
    Claim,
    Limits,
    Standing,
    no_request_left,
    prompt_never_fits,
    rate_headers,
    too_few_tokens_left,
    too_many_at_once,
)
from multiflora_platform.auth.principals import Principal


@dataclass
class _Account:
    """One tenant's; the buckets follow its policy, None where that has no limit."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    # Claims that are not closed.
    running: int = 0


class _MemoryClaim(Claim):
    def __init__(self, account: _Account) -> None:
        self._account = account
        self._closed = False
        self._taken = 0

    async def prompt(self, count: int) -> None:
        bucket = self._account.tokens
        if bucket is None:
            return
        if count > bucket.per_minute:
            raise prompt_never_fits(count, bucket.per_minute)
        if bucket.level < count:
            raise too_few_tokens_left(bucket.per_minute, bucket.seconds_until(count))
        bucket.take(count)
        self._taken += count

    def give_back(self) -> None:
        if self._account.tokens is not None:
            self._account.tokens.take(-self._taken)
        self._taken = 0

    def generated(self, count: int) -> None:
        if self._account.tokens is not None:
            self._account.tokens.take(count)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._account.running -= 1


class MemoryLimits(Limits):
    """For the only server of a database."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[int | None, _Account] = {}

    async def admit(self, principal: Principal) -> Claim:
        account, policy = self._account(principal), principal.policy
        if policy.max_concurrent_requests is not None and account.running >= policy.max_concurrent_requests:
            raise too_many_at_once(account.running)
        if account.requests is not None:
            if account.requests.level < 1:
                raise no_request_left(account.requests.per_minute, account.requests.seconds_until(1))
            account.requests.take(1)
        account.running += 1
        return _MemoryClaim(account)

    def headers(self, principal: Principal) -> dict[str, str]:
        account = self._account(principal)
        found: dict[str, str] = {}
        for kind, bucket in (("requests", account.requests), ("tokens", account.tokens)):
            if bucket is not None:
                found |= rate_headers(kind, bucket.per_minute, bucket.level)
        return found

    async def standing(self, principal: Principal) -> Standing:
        account = self._account(principal)
        return Standing(
            None if account.requests is None else account.requests.level,
            None if account.tokens is None else account.tokens.level,
            None if principal.policy.max_concurrent_requests is None else account.running,
            is_shared=False,
        )

    async def close(self) -> None:
        """Nothing is held anywhere else."""

    def _account(self, principal: Principal) -> _Account:
        account = self._accounts.setdefault(principal.tenant_id, _Account())
        account.requests = sized(account.requests, principal.policy.requests_per_minute, self._clock)
        account.tokens = sized(account.tokens, principal.policy.tokens_per_minute, self._clock)
        return account
