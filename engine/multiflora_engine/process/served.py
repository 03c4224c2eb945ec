"""A built engine, as the step loop uses it. Knows no implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from multiflora_engine.process.adapter_commands import ManagedAdapters
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import (
    ArtifactPart,
    ArtifactWanted,
    CacheReply,
    CacheRequest,
    EngineStats,
    Ready,
)
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta


class FollowedCache(Protocol):
    """`ChangeLog`."""

    is_on: bool

    @property
    def count(self) -> int: ...
    def turn(self, on: bool) -> None: ...
    def take(self) -> list[CacheChange]: ...


class AdministeredCache(Protocol):
    """`CacheAdmin`."""

    is_waiting: bool

    @property
    def has_work(self) -> bool: ...
    @property
    def changes(self) -> FollowedCache: ...
    def submit(self, request: CacheRequest) -> None: ...
    def abandon(self, holder: str) -> None: ...
    def advance(self) -> list[CacheReply]: ...


class WantedArtifacts(Protocol):
    """`MissingArtifacts`."""

    can_ask: bool

    def take_wanted(self) -> ArtifactWanted | None: ...
    def deliver(self, part: ArtifactPart) -> None: ...


class StepEngine(Protocol):
    """`Engine`."""

    @property
    def has_work(self) -> bool: ...
    @property
    def is_stalled(self) -> bool: ...
    def add_request(self, request: GenerateRequest) -> None: ...
    def abort(self, request_id: str, index: int | None = None) -> None: ...
    def give_back(self, request_id: str) -> bool: ...
    def step(self) -> list[TokenDelta]: ...
    def stats(self) -> EngineStats: ...
    @property
    def cache_admin(self) -> AdministeredCache: ...


class Served(Protocol):
    """What `build` returns: an engine, its adapters, and what it announces of itself."""

    @property
    def engine(self) -> StepEngine: ...
    @property
    def residency(self) -> ManagedAdapters: ...
    @property
    def artifacts(self) -> WantedArtifacts: ...
    @property
    def ready(self) -> Ready: ...
    def probe(self, slot: int) -> float: ...
    def check_ranks(self) -> None:
        """Raises DeviceLost when another process that computes with this one has ended."""
        ...

    def call_between_layers(self, callback: Callable[[], None]) -> None: ...
    def use_idle_moment(self) -> None: ...
    def finish(self) -> None:
        """The process ends: what was to be written behind the steps is written, in seconds."""
        ...
