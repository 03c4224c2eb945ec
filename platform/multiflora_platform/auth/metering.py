"""Counts what a generation takes: into the usage of its tenant, and against the tenant's tokens per minute."""

from __future__ import annotations

from collections.abc import Callable

from multiflora_platform.auth.limits.limits import Claim
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import UsageLedger
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.web.openai_errors import ApiError


class Meter(Observer):
    """Of one prompt. Counts go to the ledger as they arise, so that a crash loses no more than the last write's wait.

    principal: whose request it is. adapter: None for the base model. seconds_per_token: of the device, for a prompt's
    token that is computed.
    """

    def __init__(
        self,
        ledger: UsageLedger,
        claim: Claim,
        principal: Principal,
        adapter: str | None,
        num_prompt: int,
        seconds_per_token: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self._place = principal.tenant, adapter, principal.key_id
        self._num_prompt = num_prompt
        self._seconds_per_token = seconds_per_token

    def started(self, start: PromptStart) -> None:
        row = self._ledger.row(*self._place)
        row.prompt_tokens += self._num_prompt
        row.cached_tokens += start.cached_tokens
        row.cache_write_tokens += start.cache_write_tokens
        per_token = self._seconds_per_token() * 1e6
        row.saved_us += round(start.cached_tokens * per_token)
        row.again_us += round(start.evicted_tokens * per_token)

    def tokens(self, new: NewTokens) -> None:
        count = len(new.token_ids)
        self._claim.generated(count)
        row = self._ledger.row(*self._place)
        row.completion_tokens += count
        row.device_us += round(new.device_seconds * 1e6)

    def ended(self, outcome: str, error: ApiError | None) -> None:
        self._ledger.row(*self._place).requests += 1
