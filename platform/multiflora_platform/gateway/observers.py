"""Who wants to know how a generation goes: metrics, usage, limits and rollouts hear of it while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from multiflora_platform.gateway.errors import ApiError


class PromptStart(NamedTuple):
    """How a prompt was begun. queued_seconds: what it waited before; load_seconds: how long of that for its adapter.

    miss_reason: why the prefix cache had no more of it (the engine's CacheLedger); "" when it had all it could have.
    """

    cached_tokens: int
    queued_seconds: float
    load_seconds: float
    miss_reason: str


class Observer:
    """Hears of one prompt, in the event loop, so every call is short. Override what is of interest."""

    def started(self, start: PromptStart) -> None:
        """The engine has begun to answer: the prompt is computed."""

    def tokens(self, index: int, token_ids: Sequence[int], device_seconds: float) -> None:
        """New tokens of answer `index`, and the device's time since its last ones."""

    def answered(self, index: int, reason: str) -> None:
        """Answer `index` has ended."""

    def ended(self, outcome: str, error: ApiError | None) -> None:
        """Once: "ok", "error" (with the error) or "abort"."""
