"""Simulated time: what is to happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Event = Callable[[], None]


class SimulatedTime:
    """now: seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = count()
        # Of events at one time, those that were told first go first.
        self._events: list[tuple[float, int, Event]] = []

    def clock(self) -> float:
        return self.now

    def at(self, when: float, event: Event) -> None:
        assert when >= self.now, "what is over does not happen again"
        heapq.heappush(self._events, (when, next(self._number), event))

    def after(self, seconds: float, event: Event) -> None:
        self.at(self.now + seconds, event)

    def run(self) -> None:
        """Until nothing is to happen any more."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
