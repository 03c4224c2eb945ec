"""Counts what a generation takes: into the usage of its tenant, and against the tenant's tokens per minute."""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_platform.auth.limits import Claim
from multiflora_platform.auth.usage import Counts, UsageLedger
from multiflora_platform.gateway.errors import ApiError
from multiflora_platform.gateway.observers import Observer, PromptStart


class Meter(Observer):
    """Of one prompt. Counts go to the ledger as they arise, so that a crash loses no more than the last write's wait.

    tenant: None for admins. adapter: None for the base model.
    """

    def __init__(
        self, ledger: UsageLedger, claim: Claim, tenant: str | None, adapter: str | None, num_prompt: int
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self._tenant = tenant
        self._adapter = adapter
        self._num_prompt = num_prompt

    def started(self, start: PromptStart) -> None:
        self._count(Counts(prompt_tokens=self._num_prompt, cached_tokens=start.cached_tokens))

    def tokens(self, index: int, token_ids: Sequence[int], device_seconds: float) -> None:
        self._claim.generated(len(token_ids))
        self._count(Counts(completion_tokens=len(token_ids), device_us=round(device_seconds * 1e6)))

    def ended(self, outcome: str, error: ApiError | None) -> None:
        self._count(Counts(requests=1))

    def _count(self, counts: Counts) -> None:
        self._ledger.add(self._tenant, self._adapter, counts)
