"""How much host memory this machine, or its container, has and leaves. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_host_memory() -> int:
    """Bytes of host memory that can be used without swapping, within the container's limit."""
    available = next(
        (line.split()[1] for line in _read_text(Path("/proc/meminfo")).splitlines() if "MemAvailable" in line), ""
    )
    memory = int(available) * 1024 if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit, used = container_limit("memory.max"), container_limit("memory.current")
    if limit.isdigit() and used.isdigit():
        memory = min(memory, max(0, int(limit) - int(used)))
    return memory


def host_memory() -> int:
    """Bytes of host memory that there are, used or not: the machine's, or the container's limit."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = container_limit("memory.max")
    return min(memory, int(limit)) if limit.isdigit() else memory


def container_limit(name: str) -> str:
    """What the container's control group says; empty outside of one."""
    return _read_text(_CGROUP / name)


def _read_text(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
