"""The engine as the platform sees it: one handle, whether one process answers behind it or several.

Knows what callers may ask; not how engines are started, watched or restarted, nor which one gets a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from multiflora_engine.protocol.messages import (
    AdapterResult,
    CacheReply,
    EngineStats,
    ProfileReply,
    Ready,
    SlotHistory,
    Status,
)
from multiflora_engine.protocol.requests import GenerateRequest

if TYPE_CHECKING:
    from multiflora_engine.process.cache_followers import CacheFollowers
    from multiflora_engine.process.token_stream import TokenStream


class UnknownReplica(Exception):
    """There is no replica of this id; ids: those that there are."""

    def __init__(self, id: str, ids: Sequence[str]) -> None:
        super().__init__(f"There is no replica {id[:64]!r}; there is {', '.join(ids) or 'none'}.")


class Life(NamedTuple):
    """One life of a replica, from a start to its end: what is cached in it is lost with it. epoch: a later one's is
    greater."""

    replica: str
    epoch: int


class Placement(msgspec.Struct, frozen=True):
    """Which replica got a request, and why. reason: what set it apart from the next best: cached (it has more of the
    prompt), idle (less waits there), adapter (which is there, or sooner there), faster (its steps are), tie (nothing:
    of equals, each adapter and each beginning has its home), only (no other took requests), or turn (round-robin).
    cached_tokens: of the prompt, that it was expected to have. seconds: to the first token, as predicted;
    runner_up_seconds: of the next best. None where the policy predicts none. moves: engines that it has lost."""

    replica: str
    reason: str
    cached_tokens: int | None = None
    seconds: float | None = None
    runner_up_seconds: float | None = None
    moves: int = 0


class EngineCalls(Protocol):
    """What an engine answers, or several as one. Every call raises EngineUnavailable while none is there to answer."""

    @property
    def ready(self) -> Ready | None:
        """What the engine said when it began to serve; None while it does not. Of several: what holds for each."""

    @property
    def stats(self) -> EngineStats:
        """Of the last heartbeat; of several, the sums."""

    def generate(self, request: GenerateRequest) -> TokenStream:
        """Sends the request at once; closing the stream aborts it."""

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        """load, unload, pin, unpin or probe; several do it all, but for the probe."""

    async def status(self) -> Status:
        """Pid, counters and adapter residency, asked afresh."""

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        """report, tokens, pin, unpin, drop, find, trace or held."""


class ReplicaHandle(EngineCalls, Protocol):
    """One engine. Keep the handle, never what it stands for: that one may restart."""

    async def slot_history(self) -> SlotHistory:
        """Loads and evictions of adapters, and which would leave for one more."""

    @property
    def id(self) -> str:
        """Of this place among the engines, whichever process has it."""

    @property
    def host(self) -> str:
        """The machine's name."""

    @property
    def group(self) -> str:
        """What it serves: the replicas of a group answer alike."""

    @property
    def epoch(self) -> int:
        """Which life of it this is, the later the greater: what it cached in an earlier one is lost. Counted from 0,
        or of an engine on another host, Unix milliseconds of its start."""

    @property
    def state(self) -> str:
        """starting, ready, draining, restarting, failed or stopped."""

    @property
    def retired(self) -> bool:
        """It is about to be stopped, or is: no request needs it."""

    @property
    def cache_followers(self) -> CacheFollowers:
        """Who is told what the engine caches and gives up."""

    @property
    def restarts(self) -> int:
        """Since the server started."""

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""

    @property
    def state_age(self) -> float | None:
        """Seconds since it was last heard of; None while it does not serve."""

    async def profile(self, kind: str, seconds: float) -> ProfileReply:
        """torch, python or memory, of its process. Raises EngineUnavailable."""


class EngineHandle(EngineCalls, Protocol):
    """All that the platform holds of its engines."""

    @property
    def state(self) -> str:
        """starting, ready, restarting, failed or stopped; ready while one of them is."""

    @property
    def restarts(self) -> int:
        """Of all of them, since the server started."""

    @property
    def replicas(self) -> Sequence[ReplicaHandle]:
        """In the order in which they came. Engines of this server are always the same ones, at least one; those of
        other hosts come and go."""

    def addressed(self, replica: str | None) -> EngineCalls:
        """The replica of this id, or all of them. Raises UnknownReplica."""

    def each(self, replica: str | None = None) -> Sequence[ReplicaHandle]:
        """Those that are ready now, or the one of this id. Raises EngineUnavailable, UnknownReplica."""

    def replica_of(self, request_id: str) -> str | None:
        """Which one has, or had, a request; None where that is forgotten."""

    def placement_of(self, request_id: str) -> Placement | None:
        """Why that one."""

    def life_of(self, request_id: str) -> Life | None:
        """The life that this one is in now."""


class NamedEngine(Protocol):
    """One base model, as far as its engines are watched."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> EngineHandle: ...


def runs(engine: EngineHandle) -> bool:
    """False: no request needs its engines, and none of them is there."""
    return not all(replica.retired for replica in engine.replicas)
