"""Whether a silent process still works: the processor time it takes, and waits for a disk. Reads Linux's /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_WORKING_SHARE = 0.1
"""Of a core. A process that is stopped or waits for a device takes nothing but what its idle threads need."""


class WorkMeter:
    """Watches one process. Where nothing can be told of it, it counts as working: patience alone decides then.

    worked_at: when it was last known to be at work (monotonic seconds).
    """

    def __init__(self, pid: int, worked_at: float) -> None:
        self._pid = pid
        self._stat = Path(f"/proc/{pid}/stat")
        self._seen_at = time.monotonic()
        self._seconds = self._read()[0]
        self._session_seconds: float | None = None
        self.worked_at = worked_at

    def look(self) -> float:
        """`worked_at` as of now; call it a few times a second. What the process started counts, too, such as a compiler
        that it waits for. Where the process itself does nothing, that takes milliseconds: all of the machine's are
        read."""
        seconds, is_on_disk = self._read()
        now = time.monotonic()
        least = _WORKING_SHARE * (now - self._seen_at)
        is_at_work = is_on_disk or seconds is None or self._seconds is None or seconds - self._seconds >= least
        session = None if is_at_work else sum(self._of_its_session())
        if session is not None and self._session_seconds is not None:
            is_at_work = session - self._session_seconds >= least
        if is_at_work:
            self.worked_at = now
        self._seconds, self._session_seconds, self._seen_at = seconds, session, now
        return self.worked_at

    def _read(self) -> tuple[float | None, bool]:
        """(processor seconds of all its threads, whether its main thread waits for a disk)."""
        fields = _fields(self._stat)
        if fields is None:
            return None, False
        return (int(fields[11]) + int(fields[12])) / _TICKS, fields[0] == b"D"

    def _of_its_session(self) -> Iterator[float]:
        """Processor seconds of each process of the session that it leads, with those of children that have ended."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            fields = _fields(stat)
            if fields is not None and int(fields[3]) == self._pid:
                yield sum(map(int, fields[11:15])) / _TICKS


def _fields(stat: Path) -> list[bytes] | None:
    """From the state on. The name in parentheses may hold anything; None of a process that is gone."""
    try:
        fields = stat.read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields if len(fields) > 15 else None
