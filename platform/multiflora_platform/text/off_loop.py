"""Where work on text runs, so that one client's long text stalls no other's stream.

Short work is done at once; longer work on a thread, which lets go of the interpreter lock now and then; very long work
on one thread for all, so that a few clients with huge bodies do not take every thread and every core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

INLINE = 4096
"""Characters, or token ids: about two milliseconds of work. Below that a thread costs more than it saves."""
_HUGE = 1 << 18
_one_at_a_time = ThreadPoolExecutor(1, "huge-text")

Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """The result of `work`, which takes time in proportion to `size` (characters or ids)."""
    if size <= INLINE:
        return work()
    if size <= _HUGE:
        return await asyncio.to_thread(work)
    return await asyncio.get_running_loop().run_in_executor(_one_at_a_time, work)
