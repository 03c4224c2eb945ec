"""The engine as the platform sees it: what it uses of the supervisor and of its client, for tests to stand in for."""

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
    from multiflora_engine.process.token_stream import TokenStream


class EngineClientLike(Protocol):
    """multiflora_engine.process.client.EngineClient, as far as the gateway uses it."""

    ready: Ready | None
    stats: EngineStats

    def generate(self, request: GenerateRequest) -> TokenStream: ...

    async def adapter(self, action: str, digest: str) -> AdapterResult: ...

    async def status(self) -> Status: ...

    async def cache(self, action: str, hash: str = "") -> CacheReply: ...

    async def slot_history(self) -> list[SlotEvent]: ...


class Engine(Protocol):
    """multiflora_engine.process.supervisor.EngineSupervisor, as far as the gateway uses it."""

    restarts: int

    @property
    def state(self) -> str: ...

    @property
    def client(self) -> EngineClientLike: ...
