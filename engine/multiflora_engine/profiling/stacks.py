"""Where the threads of this process are, a hundred times a second.

The answer is text in "folded" form, as flame graph tools read it: frames from the outermost on, and how often.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import PurePath
from types import CodeType, FrameType

_PERIOD = 0.01
_MOST_STACKS = 20_000


def record_stacks(seconds: float) -> bytes:
    """A line for each stack. Threads that wait are counted like those that compute."""
    counts: Counter[str] = Counter()
    own, names = threading.get_ident(), dict[CodeType, str]()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        threads = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                stack = f"{threads.get(ident, 'thread')};{_stack(frame, names)}"
                counts[stack if stack in counts or len(counts) < _MOST_STACKS else "(other stacks)"] += 1
        time.sleep(min(_PERIOD, max(0.0, ends - time.monotonic())))
    return "".join(f"{stack} {count}\n" for stack, count in counts.most_common()).encode()


def _stack(innermost: FrameType, names: dict[CodeType, str]) -> str:
    frames: list[str] = []
    frame: FrameType | None = innermost
    while frame is not None:
        code = frame.f_code
        if (name := names.get(code)) is None:
            name = names[code] = f"{code.co_qualname} ({'/'.join(PurePath(code.co_filename).parts[-2:])})"
        frames.append(name.replace(";", ","))
        frame = frame.f_back
    return ";".join(reversed(frames))
