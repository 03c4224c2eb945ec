"""One engine of the fleet: a supervised process, by the id of its place. Knows no other engine."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Protocol

from multiflora_engine.process.cache_followers import CacheFollowers
from multiflora_engine.process.client import EngineClient
from multiflora_engine.protocol.messages import (
    AdapterResult,
    CacheReply,
    EngineStats,
    Fatal,
    ProfileReply,
    Ready,
    SlotHistory,
    Status,
)
from multiflora_engine.protocol.requests import GenerateRequest

if TYPE_CHECKING:
    from multiflora_engine.process.token_stream import TokenStream


class Supervisor(Protocol):
    """multiflora_engine.process.supervisor.EngineSupervisor, as far as a fleet needs it."""

    restarts: int
    pid: int | None
    failure: Fatal | None

    async def start(self) -> None: ...
    async def wait_ready(self) -> Ready: ...
    async def stop(self) -> None: ...

    @property
    def state(self) -> str: ...

    @property
    def client(self) -> EngineClient:
        """To the process of the moment."""


class EngineReplica:
    """The handle of one supervised process. It looks the client up at every call, because a restart may change it."""

    def __init__(self, id: str, supervisor: Supervisor, group: str = "") -> None:
        self.id = id
        self.group = group
        self.host = socket.gethostname()
        self.supervisor = supervisor
        self.retired = False
        """It is about to be stopped, or is: no request goes to it. Filled by what starts and ends replicas."""
        self._starts = 0

    async def start(self) -> None:
        """The first time, or again after it was stopped."""
        self._starts += 1
        self.retired = False
        await self.supervisor.start()

    @property
    def client(self) -> EngineClient:
        return self.supervisor.client

    @property
    def state(self) -> str:
        state = self.supervisor.state
        if state == "starting" and self.retired:
            return "stopped"  # it was never started
        return "draining" if state == "ready" and self.client.is_draining else state

    @property
    def is_leaving(self) -> bool:
        """It answers what it has begun, and ends."""
        return self.retired or self.client.is_draining

    @property
    def restarts(self) -> int:
        return self.supervisor.restarts

    @property
    def epoch(self) -> int:
        return self.supervisor.restarts + max(0, self._starts - 1)

    @property
    def pid(self) -> int | None:
        return self.supervisor.pid

    @property
    def state_age(self) -> float | None:
        return None if self.ready is None else time.monotonic() - self.client.last_message

    @property
    def ready(self) -> Ready | None:
        return self.client.ready

    @property
    def cache_followers(self) -> CacheFollowers:
        return self.client.cache_followers

    @property
    def stats(self) -> EngineStats:
        return self.client.stats

    def generate(self, request: GenerateRequest) -> TokenStream:
        return self.client.generate(request)

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        return await self.client.adapter(action, digest)

    async def status(self) -> Status:
        return await self.client.status()

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        return await self.client.cache(action, hash, chain, first)

    async def slot_history(self) -> SlotHistory:
        return await self.client.slot_history()

    async def profile(self, kind: str, seconds: float) -> ProfileReply:
        return await self.client.profile(kind, seconds)
