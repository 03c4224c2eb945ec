"""How much of the processor copies may take while a step computes on it: a moment of each step, all between steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Seconds of a step that copying may take, and of a long step this part, when a request waits for what is copied.
_SECONDS_PER_STEP = 0.001
_LOADING_PART = 0.1
_WAIT = 0.1


class StepPace:
    """The step loop says when a step begins and ends; the thread that copies asks between parts of a copy.

    cpu_clock: seconds that the asking thread has computed.
    """

    def __init__(self, cpu_clock: Callable[[], float] = time.thread_time) -> None:
        self._cpu_clock = cpu_clock
        self._changed = threading.Condition(threading.Lock())
        self._in_step = False
        self._began = self._last_step = 0.0
        self._used = self._asked_at = 0.0
        self._is_over = False

    def step_begins(self) -> None:
        self._began = time.perf_counter()
        self._in_step = True

    def step_ends(self) -> None:
        self._last_step = time.perf_counter() - self._began
        self._in_step, self._used = False, 0.0
        with self._changed:
            self._changed.notify()

    def behind(self, is_urgent: Callable[[], bool]) -> None:
        """Returns when what no request waits for may go on, or when it has become urgent."""
        self._wait(lambda: self._used < _SECONDS_PER_STEP or is_urgent())

    def ahead(self) -> None:
        """Returns when what a request waits for may go on."""
        self._wait(lambda: self._used < max(_SECONDS_PER_STEP, self._last_step * _LOADING_PART))

    def end(self) -> None:
        """The process ends: nothing is waited for any more."""
        self._is_over = True

    def _wait(self, may_go_on: Callable[[], bool]) -> None:
        now = self._cpu_clock()
        if self._in_step:
            self._used += now - self._asked_at
        self._asked_at = now
        with self._changed:
            while self._in_step and not self._is_over and not may_go_on():
                # With a limit: whether it is urgent changes without a word.
                self._changed.wait(_WAIT)
