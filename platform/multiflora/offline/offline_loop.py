"""Steps an engine of this process, and brings each token delta to the run that waits for it.

Knows ids and listeners; neither prompts nor texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from multiflora_engine.protocol.messages import CacheReply, CacheRequest
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta

if TYPE_CHECKING:
    from multiflora_engine.build import BuiltEngine

_PAUSE = 0.0005
"""Seconds between two looks at what a thread of the cache computes."""

Listener = Callable[[TokenDelta], None]


class OfflineLoop:
    """built: of which this is the only user."""

    def __init__(self, built: BuiltEngine) -> None:
        self._built = built
        self._listeners: dict[str, Listener] = {}

    def submit(self, request: GenerateRequest, listener: Listener) -> None:
        """Raises QueueFull, or ValueError for what cannot be run."""
        self._built.engine.add_request(request)
        self._listeners[request.id] = listener

    def withdraw(self, request_ids: Iterable[str]) -> None:
        """They end without another delta. Ids of what has ended are fine."""
        for request_id in request_ids:
            if self._listeners.pop(request_id, None) is not None:
                self._built.engine.abort(request_id)

    def end_sequence(self, request_id: str, index: int) -> None:
        self._built.engine.abort(request_id, index)

    def ask_cache(self, action: str, hash: str = "") -> CacheReply:
        """What CacheRequest says; waits for it, and steps nothing meanwhile."""
        admin = self._built.engine.cache_admin
        admin.submit(CacheRequest(0, action, hash))
        while not (replies := admin.advance()):
            if admin.is_waiting:
                time.sleep(_PAUSE)
        return replies[0]

    def step(self) -> None:
        for delta in self._built.engine.step():
            listener = self._listeners.get(delta.request_id)
            if listener is not None:
                listener(delta)
        if self._built.engine.is_stalled:
            self._built.residency.wait(0.01)
