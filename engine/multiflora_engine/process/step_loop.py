"""The loop around `Engine.step`: requests and commands in, deltas, answers and heartbeats out, asleep when idle.

Knows neither models nor sockets' details nor signals.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

from multiflora_engine.process.adapter_commands import AdapterCommands, ManagedAdapters
from multiflora_engine.process.lifetime import ProcessLifetime
from multiflora_engine.process.socket import EngineSocket
from multiflora_engine.profiling.profiler import AlreadyRecording, Profiler
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import (
    Abort,
    AdapterCommand,
    AdapterMoves,
    CacheChanges,
    CacheReply,
    CacheRequest,
    Deltas,
    Draining,
    EndSequence,
    EngineStats,
    FollowCache,
    Generate,
    Heartbeat,
    ProfileReply,
    ProfileRequest,
    Ready,
    Shutdown,
    SlotHistory,
    SlotHistoryRequest,
    Start,
    Status,
    StatusRequest,
    ToEngine,
)
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.scheduling.config import QueueFull

_log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 1.0
_RECEIVING_SECONDS = 0.02  # of a flood of messages, before those who wait for a step get theirs
_WAITING_MS = 5  # how long to sleep when work waits for an adapter to arrive, or for the cache's thread


class FollowedCache(Protocol):
    """`ChangeLog`, as the loop uses it."""

    is_on: bool

    def turn(self, on: bool) -> None: ...
    def take(self) -> list[CacheChange]: ...


class AdministeredCache(Protocol):
    """`CacheAdmin`, as the loop uses it."""

    is_waiting: bool

    @property
    def has_work(self) -> bool: ...
    @property
    def changes(self) -> FollowedCache: ...
    def submit(self, request: CacheRequest) -> None: ...
    def advance(self) -> list[CacheReply]: ...


class StepEngine(Protocol):
    """`Engine`, as the loop uses it."""

    @property
    def has_work(self) -> bool: ...
    @property
    def is_stalled(self) -> bool: ...
    def add_request(self, request: GenerateRequest) -> None: ...
    def abort(self, request_id: str, index: int | None = None) -> None: ...
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
    def ready(self) -> Ready: ...
    def probe(self, slot: int) -> float: ...
    def call_between_layers(self, callback: Callable[[], None]) -> None: ...
    def finish(self) -> None:
        """The process ends: what was to be written behind the steps is written, in seconds."""
        ...


class StepLoop:
    """Receive, step, send, until the supervisor asks for the end or is gone.

    collect: told after each turn whether there are no requests.
    """

    def __init__(
        self,
        served: Served,
        socket: EngineSocket,
        lifetime: ProcessLifetime,
        collect: Callable[[bool], None] = lambda is_idle: None,
    ) -> None:
        self._collect = collect
        self._engine = served.engine
        self._cache = served.engine.cache_admin
        self._residency = served.residency
        self._commands = AdapterCommands(served.residency, served.probe)
        self._socket = socket
        self._lifetime = lifetime
        self._shutdown = False
        self._following = 0
        self._is_draining = False
        self._next_heartbeat = 0.0
        # Of requests that were not taken in, since the last deltas were sent.
        self._refusals: list[TokenDelta] = []
        self._profiler = Profiler()
        self._profiled_for = 0  # the call that waits for the profile
        # A large model on few cores computes one step for longer than the supervisor waits for a sign of life.
        served.call_between_layers(self._heartbeat)

    def run(self) -> None:
        # Shutdown ends the loop at once; after SIGTERM the requests that are here are finished first.
        while not self._shutdown and not (self._lifetime.stop_requested and not self._engine.has_work):
            self._announce_end()
            self._receive()
            if self._engine.has_work:
                deltas = self._engine.step()
                # A client that has its answer is to find in the mirrors what it has cached.
                self._send_changes()
                self._send_deltas(deltas)
            else:
                # `Engine.step` does this itself; without requests, adapters that an operator loads have to move, too.
                self._residency.poll()
            for result in self._commands.advance():
                self._socket.send(result)
            replies = self._cache.advance()
            self._send_changes()
            for reply in replies:
                self._socket.send(reply)
            self._send_profile()
            self._heartbeat()
            self._collect(not self._engine.has_work)
            self._rest()

    def _announce_end(self) -> None:
        if self._lifetime.stop_requested and not self._is_draining:
            self._is_draining = True
            self._socket.send(Draining("SIGTERM"))

    def _receive(self) -> None:
        until = time.monotonic() + _RECEIVING_SECONDS
        while (message := self._socket.receive()) is not None:
            self._handle(message)
            if time.monotonic() >= until:
                break
        self._send_deltas(self._refusals)
        self._refusals = []

    def _handle(self, message: ToEngine) -> None:
        match message:
            case Generate(request):
                self._add(request)
            case Abort(request_ids):
                for request_id in request_ids:
                    self._engine.abort(request_id)
            case EndSequence(request_id, index):
                self._engine.abort(request_id, index)
            case AdapterCommand():
                result = self._commands.submit(message)
                if result is not None:
                    self._socket.send(result)
            case StatusRequest(call_id):
                self._socket.send(Status(call_id, os.getpid(), self._engine.stats(), self._residency.snapshot()))
            case CacheRequest():
                self._cache.submit(message)
            case FollowCache(following):
                self._following = following
                self._cache.changes.turn(bool(following))
                if following:
                    self._send_adapters()
            case SlotHistoryRequest(call_id):
                self._socket.send(SlotHistory(call_id, self._residency.history()))
            case ProfileRequest():
                self._start_profile(message)
            case Shutdown():
                self._shutdown = True
            case Start():
                _log.error("Ignored a second start message")

    def _add(self, request: GenerateRequest) -> None:
        try:
            self._engine.add_request(request)
        except QueueFull as error:
            self._refuse(request, EngineFailure("server_overloaded", str(error)))
        except ValueError as error:
            self._refuse(request, EngineFailure("invalid_request", str(error)))
        except Exception as error:
            # One request that cannot be taken in must not end the loop that serves all others.
            _log.exception("Request %s cannot be taken in", request.id)
            self._refuse(request, EngineFailure("internal_error", f"the engine refused it: {type(error).__name__}"))

    def _refuse(self, request: GenerateRequest, failure: EngineFailure) -> None:
        self._refusals += [
            TokenDelta(request_id=request.id, index=index, finish_reason="error", failure=failure)
            for index in range(request.params.num_sequences)
        ]

    def _send_deltas(self, deltas: list[TokenDelta]) -> None:
        if deltas:
            self._socket.send(Deltas(deltas))

    def _send_changes(self) -> None:
        """To a gateway that follows: what is cached and given up, and adapters that came to another place."""
        if self._cache.changes.is_on and (changes := self._cache.changes.take()):
            self._socket.send(CacheChanges(self._following, changes))
        if (moves := self._residency.take_moves()) and self._following:
            self._socket.send(AdapterMoves(moves))

    def _send_adapters(self) -> None:
        """All that are in memory; later moves go on from there."""
        self._residency.take_moves()
        places = {one.digest: one.residency for one in self._residency.snapshot() if one.residency != "disk"}
        self._socket.send(AdapterMoves(places, is_all=True))

    def _start_profile(self, request: ProfileRequest) -> None:
        try:
            self._profiler.start(request.kind, request.seconds)
        except AlreadyRecording:
            error = "A profile of this engine is being recorded already; try again when it has ended."
            self._socket.send(ProfileReply(request.call_id, error))
        else:
            self._profiled_for = request.call_id

    def _send_profile(self) -> None:
        if (profile := self._profiler.take()) is not None:
            self._socket.send(ProfileReply(self._profiled_for, profile.error, profile.trace))

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + _HEARTBEAT_SECONDS
            self._shutdown = self._shutdown or self._lifetime.orphaned
            self._socket.send(Heartbeat(self._engine.stats()))

    def _rest(self) -> None:
        """Not at all while there is work to do; briefly while something is loading; else until the next heartbeat."""
        if self._engine.has_work and not self._engine.is_stalled:
            return
        if self._cache.has_work and not self._cache.is_waiting:
            return
        if self._commands.has_work or self._cache.has_work or self._engine.is_stalled:
            self._socket.wait(_WAITING_MS)
        elif not self._shutdown and not self._lifetime.stop_requested:
            # Rounded up: rounded down, the loop would wake before the heartbeat is due and spin until it is.
            self._socket.wait(max(0, int((self._next_heartbeat - time.monotonic()) * 1000)) + 1)
