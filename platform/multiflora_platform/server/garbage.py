"""The gateway's collections of all objects, while few prompts run: among thousands one stops every stream for 0.1 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sized
from contextlib import asynccontextmanager, closing, suppress

from multiflora_engine.process.garbage import FullCollections

_FEW = 16


@asynccontextmanager
async def collecting_while_idle(active: Sized, period: float = 1.0) -> AsyncIterator[None]:
    """active: the prompts that run now. period: seconds between two looks at them."""
    with closing(FullCollections()) as collections:
        looking = asyncio.create_task(_look(collections, active, period))
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking


async def _look(collections: FullCollections, active: Sized, period: float) -> None:
    while True:
        await asyncio.sleep(period)
        collections.advance(len(active) <= _FEW)
