"""Where the threads of this process are, a hundred times a second.

The answer is text in "folded" form, as flame graph tools read it: frames from the outermost on, and how often.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import PurePath
from types import FrameType

_PERIOD = 0.01
_MOST_STACKS = 20_000


def record_stacks(seconds: float) -> bytes:
    """A line for each stack. Threads that wait are counted like those that compute."""
    counts: Counter[str] = Counter()
    own, names = threading.get_ident(), dict[tuple[str, str], str]()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        threads = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                stack = f"{threads.get(ident, 'thread')};{_stack(frame, names)}"
                counts[stack if stack in counts or len(counts) < _MOST_STACKS else "(other stacks)"] += 1
        time.sleep(min(_PERIOD, max(0.0, ends - time.monotonic())))
    return "".join(f"{stack} {count}\n" for stack, count in counts.most_common()).encode()


def _stack(innermost: FrameType, names: dict[tuple[str, str], str]) -> str:
    """names: of functions by file and qualified name. Code objects would not do: they are equal across files."""
    frames: list[str] = []
    frame: FrameType | None = innermost
    while frame is not None:
        key = file, function = frame.f_code.co_filename, frame.f_code.co_qualname
        if (name := names.get(key)) is None:
            name = names[key] = f"{function} ({'/'.join(PurePath(file).parts[-2:])})".replace(";", ",")
        frames.append(name)
        frame = frame.f_back
    return ";".join(reversed(frames))
