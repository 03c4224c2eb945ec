"""What a server, or one base model of it, is answering: counted, waited for, and ended where it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from multiflora_platform.web.openai_errors import ApiError

_LAST_WORDS = 2.0
"""Seconds for streams to write their error frames, once they were told to end."""


class ActivePrompt(Protocol):
    """A prompt that is being answered, by an adapter or (None) by the base; has_started: its first token is there."""

    adapter: str | None
    has_started: bool

    def fail(self, error: ApiError) -> None:
        """Ends it; the route that reads the answer gets the error."""


@dataclass(eq=False)
class Traffic:
    active: set[ActivePrompt] = field(default_factory=set, init=False)
    """Prompts that are being answered; the gateway adds and removes them."""
    in_flight: int = field(default=0, init=False)
    """Requests that began and are not over."""
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def request_began(self) -> None:
        self.in_flight += 1
        self._idle.clear()

    def request_ended(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def wait_idle(self, patience: float) -> bool:
        """Whether all requests were over in so many seconds."""
        if self.in_flight:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience)
        return not self.in_flight

    async def run_out(self, patience: float, reason: Callable[[], ApiError]) -> int:
        """Returns when all requests have ended. Past patience (seconds) the prompts of the rest end with reason's
        error, a stream with its error frame. How many these were."""
        if await self.wait_idle(patience):
            return 0
        cut_off = list(self.active)
        for answering in cut_off:
            answering.fail(reason())
        await self.wait_idle(_LAST_WORDS)
        return len(cut_off)
