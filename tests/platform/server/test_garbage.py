"""The gateway's full collections wait for few prompts."""

from __future__ import annotations

import asyncio
import gc

from multiflora_platform.server.garbage import collecting_while_idle


async def test_all_objects_are_collected_when_few_prompts_run() -> None:
    thresholds, collected = gc.get_threshold(), asyncio.Event()
    active = set(range(100))

    def told(phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2 and phase == "stop":
            collected.set()

    try:
        async with collecting_while_idle(active, period=0.001):
            gc.callbacks.append(told)
            for _ in range(20):
                gc.collect(1)
                await asyncio.sleep(0.002)
            assert not collected.is_set(), "a hundred prompts run"
            active.clear()
            await asyncio.wait_for(collected.wait(), 20)
    finally:
        gc.callbacks.remove(told)
        gc.unfreeze()
    assert gc.get_threshold() == thresholds
