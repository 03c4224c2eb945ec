"""The loop around `Engine.step`: requests and commands in, deltas, answers and heartbeats out, asleep when idle.

Several gateways may be connected: each is sent what it asked for, all are told how the engine is. Knows neither models
nor sockets' details nor signals.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import msgspec

from multiflora_engine.process.adapter_commands import AdapterCommands
from multiflora_engine.process.lifetime import ProcessLifetime
from multiflora_engine.process.peers.artifact_requests import ArtifactRequests
from multiflora_engine.process.peers.left_gateways import LeftGateways
from multiflora_engine.process.peers.owed import Answer, Owed
from multiflora_engine.process.served import Served
from multiflora_engine.process.socket import EngineSocket, Peer
from multiflora_engine.profiling.profiler import AlreadyRecording, Profiler
from multiflora_engine.protocol.messages import (
    Abort,
    AdapterCommand,
    AdapterMoves,
    AdapterResult,
    ArtifactPart,
    CacheChanges,
    CacheReply,
    CacheRequest,
    Deltas,
    Draining,
    EndSequence,
    EngineLoad,
    FollowCache,
    Generate,
    Heartbeat,
    Hello,
    PinnedAdapters,
    ProfileReply,
    ProfileRequest,
    Shutdown,
    SlotHistory,
    SlotHistoryRequest,
    Status,
    StatusRequest,
    ToEngine,
    Welcome,
    Withdraw,
    Withdrawn,
)
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.scheduling.config import QueueFull

_log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 1.0
_RECEIVING_SECONDS = 0.02  # of a flood of messages, before those who wait for a step get theirs
_WAITING_MS = 5  # how long to sleep when work waits for an adapter to arrive, or for the cache's thread


class StepLoop:
    """Receive, step, send, until the starter asks for the end or is gone.

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
        self._check_ranks = served.check_ranks
        self._commands = AdapterCommands(served.residency, served.probe)
        self._socket = socket
        self._lifetime = lifetime
        self._ready = served.ready
        self._epoch = int(time.time() * 1000)
        self._owed = Owed()
        self._artifacts = ArtifactRequests(served.artifacts, socket)
        self._pins: list[str] = []
        self._shutdown = False
        self._is_draining = False
        self._left = LeftGateways()
        self._next_heartbeat = 0.0
        # Of requests that were not taken in, since the last deltas were sent.
        self._refusals: list[TokenDelta] = []
        self._profiler = Profiler()
        self._profiled_for = 0  # the call that waits for the profile
        # A large model on few cores computes one step for longer than the supervisor waits for a sign of life.
        served.call_between_layers(self._heartbeat)
        self._use_idle_moment = served.use_idle_moment

    def run(self) -> None:
        for peer in self._socket.peers:
            self._welcome(peer)
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
                self._use_idle_moment()
            self._send_load()
            self._send_results(self._commands.advance())
            replies = self._cache.advance()
            self._send_changes()
            for reply in replies:
                self._send_reply(reply)
            self._send_profile()
            self._artifacts.advance()
            self._heartbeat()
            self._forget_gone()
            self._collect(not self._engine.has_work)
            self._rest()
        self._announce_end()  # where there was nothing to be finished first

    def _announce_end(self) -> None:
        if self._lifetime.stop_requested and not self._is_draining:
            self._is_draining = True
            self._socket.send_all(Draining("SIGTERM"))

    def _receive(self) -> None:
        until = time.monotonic() + _RECEIVING_SECONDS
        while (received := self._socket.receive()) is not None:
            self._handle(*received)
            if time.monotonic() >= until:
                break
        self._send_deltas(self._refusals)
        self._refusals = []

    def _handle(self, peer: Peer, message: ToEngine) -> None:
        match message:
            case Hello():
                self._welcome(peer)
            case Generate(request):
                self._add(peer, request)
            case Abort(request_ids):
                for request_id in request_ids:
                    self._abort(peer, request_id)
            case EndSequence(request_id, index):
                self._abort(peer, request_id, index)
            case Withdraw(request_ids):
                self._withdraw(peer, request_ids)
            case AdapterCommand():
                result = self._commands.submit(self._owed.call(peer, message))
                if result is not None:
                    self._send_results([result])
            case StatusRequest(call_id):
                adapters = self._residency.snapshot()
                self._socket.send(peer, Status(call_id, os.getpid(), self._engine.stats(), adapters))
            case CacheRequest():
                call = self._owed.call(peer, message)
                self._cache.submit(msgspec.structs.replace(call, holder=peer.gateway))
            case FollowCache(following):
                self._follow(peer, following)
            case SlotHistoryRequest(call_id):
                self._socket.send(peer, SlotHistory(call_id, self._residency.history(), self._residency.forecast()))
            case ProfileRequest():
                self._start_profile(peer, message)
            case ArtifactPart():
                self._artifacts.take(peer, message)
            case Shutdown():
                # Gateways come and go; whoever started the engine ends it.
                self._shutdown = self._shutdown or peer.is_starter

    def _welcome(self, peer: Peer) -> None:
        self._left.came(peer.gateway)
        self._socket.send(peer, Welcome(self._epoch, self._ready, self._pins))
        if self._is_draining:
            self._socket.send(peer, Draining("SIGTERM"))

    def _forget_gone(self) -> None:
        """What was asked for by gateways that are gone is computed for no one."""
        for peer in self._socket.take_gone():
            for request_id in self._owed.forget(peer):
                self._engine.abort(request_id)
            if peer.following:
                self._follow(peer, 0)
            if all(one.gateway != peer.gateway for one in self._socket.peers):
                self._left.left(peer.gateway)

    def _add(self, peer: Peer, request: GenerateRequest) -> None:
        peer.requests += 1
        try:
            self._owed.begin(peer, request)
        except ValueError as error:
            # To this peer alone: the id is another's.
            self._socket.send(peer, Deltas(_refusal(request, EngineFailure("invalid_request", str(error)))))
            return
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
        self._refusals += _refusal(request, failure)

    def _abort(self, peer: Peer, request_id: str, index: int | None = None) -> None:
        if self._owed.has(peer, request_id):
            self._engine.abort(request_id, index)
            self._owed.end(request_id, index)

    def _withdraw(self, peer: Peer, request_ids: list[str]) -> None:
        forgotten = [id for id in request_ids if self._owed.has(peer, id) and self._engine.give_back(id)]
        for request_id in forgotten:
            self._owed.end(request_id)
        if forgotten:
            self._socket.send(peer, Withdrawn(forgotten))

    def _send_deltas(self, deltas: list[TokenDelta]) -> None:
        for peer, own in self._owed.delivered(deltas).items():
            self._socket.send(peer, Deltas(own))

    def _send_answer(self, answer: Answer) -> None:
        self._socket.send(*self._owed.answer(answer))

    def _send_results(self, results: list[AdapterResult]) -> None:
        """Of commands that have ended; all are told which adapters are pinned now."""
        for result in results:
            self._send_answer(result)
        if results:
            pins = [report.digest for report in self._residency.snapshot() if report.pinned]
            if pins != self._pins:
                self._pins = pins
                self._socket.send_all(PinnedAdapters(pins))

    def _send_reply(self, reply: CacheReply) -> None:
        peer, own = self._owed.answer(reply)
        # Each counts the changes that it was told of.
        self._socket.send(peer, msgspec.structs.replace(own, at=max(0, own.at - peer.changes_before)))

    def _send_changes(self) -> None:
        """To gateways that follow: what is cached and given up, and adapters that came to another place."""
        changes = self._cache.changes.take() if self._cache.changes.is_on else []
        moves = self._residency.take_moves()
        for peer in self._socket.peers if changes or moves else ():
            if peer.following:
                if changes:
                    self._socket.send(peer, CacheChanges(peer.following, changes))
                if moves:
                    self._socket.send(peer, AdapterMoves(moves))

    def _send_load(self) -> None:
        """To gateways that are not alone: what others asked for they cannot know."""
        followers = [peer for peer in self._socket.peers if peer.following]
        if len(followers) < 2 and not any(peer.told for peer in followers):
            return
        stats = self._engine.stats()
        for peer in followers:
            load = EngineLoad(peer.requests, stats.pending_prefill_tokens, stats.running)
            if load != peer.told:
                peer.told = load
                self._socket.send(peer, load)

    def _follow(self, peer: Peer, following: int) -> None:
        """What has changed is told to the others first, so that the peer's following begins with now: with all
        adapters that are in memory; what is cached by now it asks for."""
        self._send_changes()
        peer.following = following
        is_followed = any(one.following for one in self._socket.peers)
        if is_followed != self._cache.changes.is_on:
            self._cache.changes.turn(is_followed)
        peer.changes_before = self._cache.changes.count
        if following:
            places = {one.digest: one.residency for one in self._residency.snapshot() if one.residency != "disk"}
            self._socket.send(peer, AdapterMoves(places, is_all=True))

    def _start_profile(self, peer: Peer, request: ProfileRequest) -> None:
        try:
            self._profiler.start(request.kind, request.seconds)
        except AlreadyRecording:
            error = "A profile of this engine is being recorded already; try again when it has ended."
            self._socket.send(peer, ProfileReply(request.call_id, error))
        else:
            self._profiled_for = self._owed.call(peer, request).call_id

    def _send_profile(self) -> None:
        if (profile := self._profiler.take()) is not None:
            self._send_answer(ProfileReply(self._profiled_for, profile.error, profile.trace))

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + _HEARTBEAT_SECONDS
            self._shutdown = self._shutdown or self._lifetime.orphaned
            self._check_ranks()
            for gateway in self._left.take_ended():
                self._cache.abandon(gateway)
            self._socket.send_all(Heartbeat(self._engine.stats()))

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


def _refusal(request: GenerateRequest, failure: EngineFailure) -> list[TokenDelta]:
    return [
        TokenDelta(request_id=request.id, index=index, finish_reason="error", failure=failure)
        for index in range(request.params.num_sequences)
    ]
