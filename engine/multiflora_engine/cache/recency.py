"""Which of a growing count's values were reached in the last seconds. Keeps a few dozen marks, no time for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

_MARKS = 64


class Recency:
    """period: in seconds. A value counts as reached up to a 64th of it later than it was. clock: seconds."""

    def __init__(self, period: float, clock: Callable[[], float]) -> None:
        self._period = period
        self._clock = clock
        self._began = self._last = clock()
        self._reached = 0
        # (when the last of some values was reached, that value), oldest first.
        self._marks: deque[tuple[float, int]] = deque()
        self._old = 0

    def note(self, value: int) -> None:
        """It is reached now; values grow by one."""
        now = self._clock()
        if now - self._began >= self._period / _MARKS:
            self._marks.append((self._last, self._reached))
            self._began = now
        self._last, self._reached = now, value

    def newest_old(self) -> int:
        """The last value that was reached before the period; 0: none."""
        before = self._clock() - self._period
        if self._last <= before:
            return self._reached
        while self._marks and self._marks[0][0] <= before:
            self._old = self._marks.popleft()[1]
        return self._old
