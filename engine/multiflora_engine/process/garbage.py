"""When Python looks through all objects for cycles: that stops every thread of a process, and takes the longer the more
requests there are. Knows of no requests: its caller says when there are few."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

_NEVER = 2**31 - 1
# A process that is never idle looks for them all the same, so that they do not fill its memory.
_LONGEST = 600.0


class FullCollections:
    """Young objects are collected as always; all of them only by `advance`. What is loaded when this is made lives as
    long as the process and is never looked at again. clock: seconds.

    A Python without a third threshold (3.14) collects old objects in small parts by itself: there is nothing to do.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        gc.collect()
        gc.freeze()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], _NEVER)
        self._clock = clock
        self._last = clock()

    def advance(self, is_idle: bool) -> None:
        """is_idle: there are few objects, so that this takes milliseconds. Does nothing while little was made."""
        threshold = self._thresholds[2]
        if not threshold or gc.get_count()[2] < threshold:
            return
        if is_idle or self._clock() - self._last >= _LONGEST:
            gc.collect()
            self._last = self._clock()

    def close(self) -> None:
        """Python collects as before."""
        gc.set_threshold(*self._thresholds)
