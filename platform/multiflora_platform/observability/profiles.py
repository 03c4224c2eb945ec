"""Profiles of the server's processes: one is recorded at a time, the last ones are kept in memory.

Knows which process is asked; what is recorded there is the engine package's.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.profiling.profiler import Profiler
from multiflora_engine.protocol.messages import ProfileReply
from multiflora_platform.engine import NamedEngine, ReplicaHandle, UnknownReplica

ProfileKind = Literal["torch", "python", "memory"]
ProfiledProcess = Literal["engine", "gateway"]

_MOST_KEPT, _MOST_BYTES = 8, 128 << 20
_POLL_SECONDS = 0.05
_ENDINGS = {"torch": "json.gz", "python": "folded.txt", "memory": "txt"}


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """state: running, done, or failed for the reason of `error`. replica: whose process it is; None: the gateway's.
    at: Unix seconds of its beginning. seconds: as asked for. bytes, file: of the trace, once there is one."""

    id: str
    kind: ProfileKind
    process: ProfiledProcess
    replica: str | None
    seconds: float
    at: float
    state: Literal["running", "done", "failed"] = "running"
    error: str | None = None
    bytes: int | None = None
    file: str | None = None


class AlreadyProfiling(Exception):
    """A profile is being recorded; `profile` is that one."""

    def __init__(self, profile: Profile) -> None:
        left = max(0.0, profile.at + profile.seconds - time.time())
        super().__init__(f"The profile {profile.id} is being recorded, for {left:.0f} more seconds; wait for its end.")
        self.profile = profile


class Profiles:
    """bases: whose engines' processes can be asked. clock: Unix seconds."""

    def __init__(self, bases: Iterable[NamedEngine], clock: Callable[[], float] = time.time) -> None:
        self._bases = bases
        self._clock = clock
        self._profiler = Profiler()
        self._kept: OrderedDict[str, Profile] = OrderedDict()
        self._traces: dict[str, bytes] = {}
        self._running: asyncio.Task[None] | None = None

    def start(self, kind: ProfileKind, seconds: float, process: ProfiledProcess, replica: str | None) -> Profile:
        """replica: which engine; None: the first of the default base model that is ready. Raises AlreadyProfiling,
        EngineUnavailable, UnknownReplica."""
        if self._running is not None and not self._running.done():
            raise AlreadyProfiling(next(reversed(self._kept.values())))
        engine = None if process == "gateway" else self._engine(replica)
        if engine is not None and engine.ready is None:
            raise EngineUnavailable("engine_unavailable", f"Replica {engine.id} is not ready; it is {engine.state}.")
        profile = Profile(
            id=f"prof-{secrets.token_hex(8)}",
            kind=kind,
            process=process,
            replica=None if engine is None else engine.id,
            seconds=seconds,
            at=self._clock(),
        )
        self._kept[profile.id] = profile
        self._running = asyncio.get_running_loop().create_task(self._record(profile, engine))
        return profile

    def all(self) -> list[Profile]:
        """The newest first."""
        return list(reversed(self._kept.values()))

    def find(self, id: str) -> Profile | None:
        return self._kept.get(id)

    def trace(self, id: str) -> bytes | None:
        """None where there is none."""
        return self._traces.get(id)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _engine(self, replica: str | None) -> ReplicaHandle:
        """Raises EngineUnavailable, UnknownReplica."""
        engines = [base.engine for base in self._bases]
        if replica is None:
            return engines[0].each()[0]
        found = {one.id: one for engine in engines for one in engine.replicas}
        if replica not in found:
            raise UnknownReplica(replica, list(found))
        return found[replica]

    async def _record(self, profile: Profile, engine: ReplicaHandle | None) -> None:
        try:
            reply = await (
                self._of_gateway(profile) if engine is None else engine.profile(profile.kind, profile.seconds)
            )
        except EngineUnavailable:
            reply = ProfileReply(0, f"The engine of replica {profile.replica} ended during the profile.")
        if reply.error is not None:
            self._kept[profile.id] = msgspec.structs.replace(profile, state="failed", error=reply.error)
        else:
            whose = profile.process if profile.replica is None else f"engine-{profile.replica}"
            file = f"{profile.id}-{whose}-{profile.kind}.{_ENDINGS[profile.kind]}"
            size = len(reply.trace)
            self._kept[profile.id] = msgspec.structs.replace(profile, state="done", bytes=size, file=file)
            self._traces[profile.id] = reply.trace
        self._forget_oldest()

    async def _of_gateway(self, profile: Profile) -> ProfileReply:
        self._profiler.start(profile.kind, profile.seconds)
        while (recorded := self._profiler.take()) is None:  # noqa: ASYNC110 - a thread ends, not a task
            await asyncio.sleep(_POLL_SECONDS)
        return ProfileReply(0, recorded.error, recorded.trace)

    def _forget_oldest(self) -> None:
        """The newest stays, however large."""
        while len(self._kept) > 1 and (
            len(self._kept) > _MOST_KEPT or sum(map(len, self._traces.values())) > _MOST_BYTES
        ):
            id, _ = self._kept.popitem(last=False)
            self._traces.pop(id, None)
