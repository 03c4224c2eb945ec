"""Whether a silent process still works: the processor time it takes, and waits for a disk. Reads Linux's /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_WORKING_SHARE = 0.1
"""Of a core. A process that is stopped or waits for a device takes nothing but what its idle threads need."""


class WorkMeter:
    """Watches one process. Where nothing can be told of it, it counts as working: patience alone decides then."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._seen_at = time.monotonic()
        self._seconds = self._read()[0]
        self.worked_at = self._seen_at

    def look(self) -> float:
        """The time (monotonic) at which it was last seen at work; call it a few times a second."""
        seconds, is_on_disk = self._read()
        now = time.monotonic()
        if (
            is_on_disk
            or seconds is None
            or self._seconds is None
            or seconds - self._seconds >= _WORKING_SHARE * (now - self._seen_at)
        ):
            self.worked_at = now
        self._seconds, self._seen_at = seconds, now
        return self.worked_at

    def _read(self) -> tuple[float | None, bool]:
        """(processor seconds of all its threads, whether its main thread waits for a disk)."""
        try:
            # The name in parentheses may hold anything; the fields are counted from behind it.
            fields = self._stat.read_bytes().rpartition(b")")[2].split()
            return (int(fields[11]) + int(fields[12])) / _TICKS, fields[0] == b"D"
        except (OSError, ValueError, IndexError):
            return None, False
