"""Engine processes that are none, for tests of what starts and ends them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import EngineStats, Fatal, Ready

READY = Ready("cpu", "float32", 64, 16, 256, 8, 4, 64, 1, 1)


class Supervised:
    """A process that comes up when `gate` is open, counted. client: of it, by default one that is never asked."""

    def __init__(self, client: Any = None) -> None:
        self.client = client or SimpleNamespace(
            ready=None,
            is_draining=False,
            in_flight=0,
            not_begun=list,
            stats=EngineStats(),
            cache_followers=SimpleNamespace(add=lambda one: None),
        )
        self.state = "starting"
        self.restarts = 0
        self.pid: int | None = None
        self.failure: Fatal | None = None
        self.starts = self.stops = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def start(self) -> None:
        self.starts += 1
        self.state = "starting"

    async def wait_ready(self) -> Ready:
        await self.gate.wait()
        if self.fails:
            self.state, self.failure = "failed", Fatal("internal", "no memory")
            raise EngineFailed(self.failure)
        self.state, self.client.ready = "ready", READY
        return READY

    async def stop(self) -> None:
        self.stops += 1
        self.state, self.client.ready = "stopped", None
