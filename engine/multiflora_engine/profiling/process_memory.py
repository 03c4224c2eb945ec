"""How much memory a process has now: its resident pages, as the system counts them. Knows no process by role."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


def resident_bytes(pid: int) -> int | None:
    """None for a process that is gone, and where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * resource.getpagesize()


def resident_bytes_of(pids: Iterable[int | None]) -> int | None:
    """Of these processes together; None where none can be told."""
    sizes = [size for pid in pids if pid is not None and (size := resident_bytes(pid)) is not None]
    return sum(sizes) if sizes else None


def own_resident_bytes() -> int:
    """Where the system has no /proc: the most that this process ever had, which is all that it tells."""
    size = resident_bytes(os.getpid())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT if size is None else size
