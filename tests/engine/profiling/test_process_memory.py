"""A process's memory as it is now, not as it once was: held against another count of the system's."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from multiflora_engine.profiling.process_memory import own_resident_bytes, resident_bytes, resident_bytes_of

GROWS_AND_SHRINKS = """
import mmap, sys
held = mmap.mmap(-1, 200 << 20)
for offset in range(0, 200 << 20, 4096):
    held[offset] = 1
print("grown", flush=True); sys.stdin.readline()
held.close()
print("shrunk", flush=True); sys.stdin.readline()
"""


def truth(pid: int) -> int:
    """What the page tables say, which is exact and slow."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    text = rollup.read_text() if rollup.exists() else Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^(?:Rss|VmRSS):\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def children(pid: int) -> list[int]:
    """By whom each process names as its parent: of this one the tests before may have left some."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system has no /proc")
def test_memory_that_was_given_back_is_counted_no_more() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GROWS_AND_SHRINKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        sizes = []
        for _ in range(2):
            child.stdout.readline()
            size = resident_bytes(child.pid)
            assert size == pytest.approx(truth(child.pid), rel=0.05)
            assert child.pid in children(os.getpid())
            together = sum(map(truth, [os.getpid(), *children(os.getpid())]))
            assert resident_bytes_of([os.getpid()]) == pytest.approx(together, rel=0.05)
            sizes.append(size)
            child.stdin.write("\n")
            child.stdin.flush()
    grown, shrunk = sizes
    assert grown - shrunk == pytest.approx(200 << 20, rel=0.05)
    assert resident_bytes(child.pid) is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system has no /proc")
def test_the_own_process_has_as_much_as_another_would_see() -> None:
    assert own_resident_bytes() == pytest.approx(truth(os.getpid()), rel=0.05)
