"""How much memory a process has now: its resident pages, as the system counts them. Knows no process by role."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
    """Of these processes and those that they have started, together; None where none can be told."""
    processes = [one for pid in pids if pid is not None for one in (pid, *_children(pid))]
    sizes = [size for pid in processes if (size := resident_bytes(pid)) is not None]
    return sum(sizes) if sizes else None


def _children(pid: int) -> Iterator[int]:
    """Only an engine of several ranks has any for long."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            yield from map(int, children.read_text(encoding="ascii").split())


def own_resident_bytes() -> int:
    """Where the system has no /proc: the most that this process ever had, which is all that it tells."""
    size = resident_bytes(os.getpid())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT if size is None else size
