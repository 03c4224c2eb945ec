"""The engine as the platform sees it: one handle, whether one process answers behind it or a pool of them.

Knows what callers may ask; not how an engine is started, watched or restarted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from multiflora_engine.protocol.messages import (
    AdapterResult,
    CacheReply,
    EngineStats,
    Ready,
    SlotEvent,
    Status,
)
from multiflora_engine.protocol.requests import GenerateRequest

if TYPE_CHECKING:
    from multiflora_engine.process.cache_followers import CacheFollowers
    from multiflora_engine.process.token_stream import TokenStream


class EngineCalls(Protocol):
    """What an engine answers. Every call raises EngineUnavailable while none is there to answer."""

    @property
    def ready(self) -> Ready | None:
        """What the engine said when it began to serve; None while it does not."""

    @property
    def stats(self) -> EngineStats:
        """Of its last heartbeat."""

    @property
    def cache_followers(self) -> CacheFollowers:
        """Who is told what the engine caches and gives up."""

    def generate(self, request: GenerateRequest) -> TokenStream:
        """Sends the request at once; closing the stream aborts it."""

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        """load, unload, pin, unpin or probe."""

    async def status(self) -> Status:
        """Pid, counters and adapter residency, asked afresh."""

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        """report, tokens, pin, unpin, drop, find or held."""

    async def slot_history(self) -> list[SlotEvent]:
        """Loads and evictions of adapters, oldest first."""


class EngineHandle(EngineCalls, Protocol):
    """All that the platform holds of its engine. Keep the handle, never what it stands for: that one may restart."""

    @property
    def state(self) -> str:
        """starting, ready, restarting, failed or stopped."""

    @property
    def restarts(self) -> int:
        """Since the server started."""

    @property
    def pid(self) -> int | None:
        """Of the engine's process; None while there is none."""


class Supervisor(Protocol):
    """multiflora_engine.process.supervisor.EngineSupervisor, as far as the handle needs it."""

    restarts: int
    pid: int | None

    @property
    def state(self) -> str: ...

    @property
    def client(self) -> EngineCalls:
        """To the process of the moment."""


class SupervisedEngine:
    """The handle of one supervised process. It looks the client up at every call, because a restart may change it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def state(self) -> str:
        return self._supervisor.state

    @property
    def restarts(self) -> int:
        return self._supervisor.restarts

    @property
    def pid(self) -> int | None:
        return self._supervisor.pid

    @property
    def ready(self) -> Ready | None:
        return self._supervisor.client.ready

    @property
    def stats(self) -> EngineStats:
        return self._supervisor.client.stats

    @property
    def cache_followers(self) -> CacheFollowers:
        return self._supervisor.client.cache_followers

    def generate(self, request: GenerateRequest) -> TokenStream:
        return self._supervisor.client.generate(request)

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        return await self._supervisor.client.adapter(action, digest)

    async def status(self) -> Status:
        return await self._supervisor.client.status()

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        return await self._supervisor.client.cache(action, hash, chain, first)

    async def slot_history(self) -> list[SlotEvent]:
        return await self._supervisor.client.slot_history()
