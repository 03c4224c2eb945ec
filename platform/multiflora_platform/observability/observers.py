"""Who wants to know how a generation goes, and where it goes: metrics, usage, limits and rollouts hear of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from multiflora_platform.engine import Placement
from multiflora_platform.web.openai_errors import ApiError


class PromptStart(NamedTuple):
    """How a prompt was begun: what the engine sends with its first delta."""

    cached_tokens: int
    queued_seconds: float
    """What the prompt waited before, in all."""
    load_seconds: float
    """How long of that for its adapter."""
    miss_reason: str
    """Why the prefix cache had no more of it (the engine's CacheIndex); "" when it had all it could have."""
    cache_write_tokens: int = 0
    """What it added to the prefix cache."""
    evicted_tokens: int = 0
    """What of it was computed although it had been cached, because it was evicted."""
    device_seconds: float = 0.0
    """Its part of the device's time, which it shares with what was computed in the same steps."""


class NewTokens(msgspec.Struct, gc=False):
    """What one delta adds to an answer; Generation makes it and gives it to all observers of the prompt."""

    index: int
    """Which of the request's answers."""
    token_ids: Sequence[int]
    device_seconds: float
    """The device's time since the answer's last tokens, measured by the engine."""
    at: float
    """When Generation took the tokens, `time.perf_counter()`."""
    since_last: float | None
    """Seconds since the answer's tokens before; None for its first."""
    text: str = ""
    """What of the answer's text can go out with them: without what the client does not see, such as the end token."""


class Observer:
    """Hears of one prompt, in the event loop, so every call is short. Override what is of interest."""

    def started(self, start: PromptStart) -> None:
        """The engine has begun to answer: the prompt is computed."""

    def tokens(self, new: NewTokens) -> None:
        """An answer goes on."""

    def answered(self, index: int, reason: str) -> None:
        """Answer `index` has ended."""

    def ended(self, outcome: str, error: ApiError | None) -> None:
        """Once: "ok", "error" (with the error) or "abort"."""


class RoutingObserver:
    """Hears of each choice between several engines, in the event loop. Override what is of interest."""

    def decided(self, seconds: float) -> None:
        """A choice took so long."""

    def placed(self, placement: Placement) -> None:
        """A request was sent there."""

    def moved(self, replica: str, cause: str) -> None:
        """A request of which this replica had sent nothing is another one's now. cause: drain (it was told to end), or
        engine_dead."""
