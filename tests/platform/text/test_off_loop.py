"""Short work at once, long work on threads, and huge work on a single one, so that others keep theirs."""

from __future__ import annotations

import asyncio
import threading

from multiflora_platform.text.off_loop import INLINE, off_loop


async def test_size_decides_where_work_runs() -> None:
    loop_thread = threading.current_thread()
    assert await off_loop(INLINE, threading.current_thread) is loop_thread
    assert await off_loop(INLINE + 1, threading.current_thread) is not loop_thread
    huge = await asyncio.gather(*(off_loop(1 << 20, threading.current_thread) for _ in range(5)))
    assert len(set(huge)) == 1


async def test_huge_work_of_many_holds_up_neither_the_loop_nor_long_work() -> None:
    release = threading.Event()
    huge = [asyncio.create_task(off_loop(1 << 20, release.wait)) for _ in range(20)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await off_loop(INLINE + 1, lambda: "done") == "done"
    release.set()
    assert await asyncio.gather(*huge) == [True] * 20
