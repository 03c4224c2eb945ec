"""Who wants to know how a generation goes: metrics, usage, limits and rollouts hear of it while it runs."""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_platform.gateway.errors import ApiError


class Observer:
    """Hears of one prompt, in the event loop, so every call is short. Override what is of interest."""

    def started(self, cached_tokens: int, queued_seconds: float) -> None:
        """The engine has begun to answer: the prompt is computed. queued_seconds: what it waited before that."""

    def tokens(self, index: int, token_ids: Sequence[int], device_seconds: float) -> None:
        """New tokens of answer `index`, and the device's time since its last ones."""

    def answered(self, index: int, reason: str) -> None:
        """Answer `index` has ended."""

    def ended(self, outcome: str, error: ApiError | None) -> None:
        """Once: "ok", "error" (with the error) or "abort"."""
