"""Steps an engine of this process, and brings each token delta to the run that waits for it. Ctrl-C comes between
these, or between two layers of a model that this process computes alone.

Knows ids and listeners; neither prompts nor texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from multiflora.offline.interrupts import Interrupts
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
        self._interrupts = Interrupts()
        if built.leader is None:
            built.call_between_layers(self._interrupts.let_in)

    def submit(self, request: GenerateRequest, listener: Listener) -> None:
        """Raises QueueFull, or ValueError for what cannot be run."""
        with self._undivided():
            self._built.engine.add_request(request)
            self._listeners[request.id] = listener

    def withdraw(self, request_ids: Iterable[str]) -> None:
        """They end without another delta. Ids of what has ended are fine."""
        with self._undivided():
            for request_id in request_ids:
                if self._listeners.pop(request_id, None) is not None:
                    self._built.engine.abort(request_id)

    def end_sequence(self, request_id: str, index: int) -> None:
        with self._undivided():
            self._built.engine.abort(request_id, index)

    def forget_prefixes(self) -> None:
        """No later prompt finds what was computed before."""
        with self._undivided():
            # A report shows the longest runs only, and what lies behind a dropped one goes with it.
            while runs := [node for node in self._ask_cache("report").nodes if node.parent is None]:
                for run in runs:
                    self._ask_cache("drop", run.hash)
            if self._built.offloading is not None:
                self._built.offloading.clear()

    def step(self) -> None:
        """Raises DeviceLost."""
        with self._undivided():
            for delta in self._built.engine.step():
                listener = self._listeners.get(delta.request_id)
                if listener is not None:
                    listener(delta)
            if self._built.engine.is_stalled:
                self._built.residency.wait(0.01)

    @contextmanager
    def _undivided(self) -> Iterator[None]:
        """What is done within is not left half done, unless Ctrl-C says so twice."""
        with self._interrupts.held_back():
            try:
                yield
            except Exception:
                raise
            except BaseException:
                if self._built.leader is not None:  # other ranks are about to do what this one will not do any more
                    self._built.leader.close()
                raise

    def _ask_cache(self, action: str, hash: str = "") -> CacheReply:
        """What CacheRequest says; waits for it, and steps nothing meanwhile."""
        admin = self._built.engine.cache_admin
        admin.submit(CacheRequest(0, action, hash))
        while not (replies := admin.advance()):
            if admin.is_waiting:
                time.sleep(_PAUSE)
        return replies[0]
