"""What this process has taken and not given back between two looks, by the place that allocated it.

Python's allocations are traced from the first third on; what only the process as a whole shows (tensors, libraries) is
told as its resident memory.
"""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc

from multiflora_engine.profiling.process_memory import own_resident_bytes

_FRAMES, _SHOWN = 8, 25
_KIB = 1024


def record_memory(seconds: float) -> bytes:
    """A report as text. What is made and let go of in turn has levelled off when the first look is taken."""
    was_tracing, resident = tracemalloc.is_tracing(), own_resident_bytes()
    if not was_tracing:
        tracemalloc.start(_FRAMES)
    try:
        time.sleep(seconds / 3)
        before, had = _snapshot(), own_resident_bytes()
        time.sleep(seconds * 2 / 3)
        after, has = _snapshot(), own_resident_bytes()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    grown = [one for one in after.compare_to(before, "traceback") if one.size_diff > 0]
    total = sum(one.size_diff for one in grown)
    lines = [
        f"Memory that grew within {seconds * 2 / 3:.1f} s",
        f"resident: {_kib(had)} KiB -> {_kib(has)} KiB ({_kib(has - had):+} KiB); {_kib(resident)} KiB at the start",
        f"python, traced since the start: {_kib(total):+} KiB at {len(grown)} places",
        f"objects that wait for the garbage collector, by generation: {gc.get_count()}",
        *_device_lines(),
        "",
        f"The {_SHOWN} places that grew most (the innermost frame last):",
    ]
    for one in sorted(grown, key=lambda one: -one.size_diff)[:_SHOWN]:
        lines.append(f"{_kib(one.size_diff):+} KiB in {one.count_diff:+} blocks ({_kib(one.size)} KiB now)")
        lines += [f"    {frame.filename}:{frame.lineno}" for frame in one.traceback]
    return ("\n".join(lines) + "\n").encode()


def _snapshot() -> tracemalloc.Snapshot:
    own = [tracemalloc.Filter(False, file, all_frames=True) for file in (tracemalloc.__file__, __file__)]
    return tracemalloc.take_snapshot().filter_traces(own)


def _device_lines() -> list[str]:
    """Of a GPU that this process uses."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    return [f"device: {_kib(torch.cuda.memory_allocated())} KiB in tensors, {_kib(torch.cuda.memory_reserved())} held"]


def _kib(size: int) -> int:
    return round(size / _KIB)
