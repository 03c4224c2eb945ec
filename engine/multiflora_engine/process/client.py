"""A gateway's side of one engine: requests out, token deltas in. asyncio, torch-free.

Knows messages and streams; not how the engine is started, watched, found or reached again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from weakref import WeakValueDictionary

import msgspec

from multiflora_engine.process.cache_followers import CacheFollowers
from multiflora_engine.process.line import EngineLine
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.lines import EngineAddress
from multiflora_engine.protocol.messages import (
    PROTOCOL,
    Abort,
    AdapterCommand,
    AdapterMoves,
    AdapterResult,
    ArtifactPart,
    ArtifactWanted,
    CacheChanges,
    CacheReply,
    CacheRequest,
    Deltas,
    Draining,
    EndSequence,
    EngineLoad,
    EngineStats,
    Fatal,
    FromEngine,
    Generate,
    Heartbeat,
    Hello,
    LoadProgress,
    PinnedAdapters,
    ProfileReply,
    ProfileRequest,
    Ready,
    SlotHistory,
    SlotHistoryRequest,
    Status,
    StatusRequest,
    ToEngine,
    Welcome,
    Withdraw,
    Withdrawn,
)
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest

_log = logging.getLogger(__name__)

Event = LoadProgress | Ready | Fatal
Answer = AdapterResult | Status | CacheReply | SlotHistory | ProfileReply


def _no_rescue(stream: TokenStream) -> bool:
    return False


def _has_none(wanted: ArtifactWanted) -> ArtifactPart:
    return ArtifactPart(wanted, is_missing=True)


def _no_change() -> None:
    pass


def _no_record(stats: EngineStats) -> None:
    pass


class EngineUnavailable(Exception):
    """The engine cannot serve now: not started, restarting, failed, or gone while it was answering.

    code is stable ("engine_unavailable" before the engine had the call, "engine_dead" after); message names the cause.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class EngineClient:
    """One connection after another to an engine; a supervisor, or what follows engines of other hosts, connects,
    disconnects and hears of events.

    ready: what the engine said when it began to serve; None while it does not. epoch: which life of the engine that
    was. stats: of the latest heartbeat. last_message: when the engine was last heard of, `time.monotonic()`. pinned:
    digests that are to stay in slots, whichever gateway pinned them. cache_followers: who is told what the engine
    caches and gives up, across its lives. adapter_places: of adapters that are in memory there, slot or cpu, by digest;
    known while the cache is followed. load: what the engine has to do, where other gateways use it, too; None: what
    this one asks. num_requests: that this line has sent. is_draining: the engine ends once it has answered what it has.
    rescue: asked for each stream that the engine answers no more, and of which nothing has come, because it is gone or
    has given the request back; True where another engine has the request now. on_change: called when the engine serves
    from now on, or is draining. on_end: told the last statistics of each engine that is gone. artifact_part: what an
    engine gets that lacks an artifact; called on a thread.
    """

    def __init__(self, on_event: Callable[[Event], None] = lambda event: None) -> None:
        self.ready: Ready | None = None
        self.epoch: int | None = None
        self.stats = EngineStats()
        self.last_message = time.monotonic()
        self.pinned: set[str] = set()
        self.cache_followers = CacheFollowers(self.send)
        self.adapter_places: dict[str, str] = {}
        self.load: EngineLoad | None = None
        self.num_requests = 0
        self.is_draining = False
        self.rescue: Callable[[TokenStream], bool] = _no_rescue
        self.on_change: Callable[[], None] = _no_change
        self.on_end: Callable[[EngineStats], None] = _no_record
        self.artifact_part: Callable[[ArtifactWanted], ArtifactPart] = _has_none
        self._on_event = on_event
        # The engine knows us by it when a line was cut.
        self._name = uuid.uuid4().hex
        self._line: EngineLine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: WeakValueDictionary[str, TokenStream] = WeakValueDictionary()
        # How many requests the engine has of each adapter, by digest, and which of them has which. A stream that was
        # dropped counts until its abort is sent.
        self._asked: Counter[str] = Counter()
        self._adapter_of: dict[str, str] = {}
        # Streams that were left since the event loop's last turn: told in one message.
        self._aborted: list[str] = []
        self._reading: set[asyncio.Task[None]] = set()
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._call_ids = itertools.count(1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(FromEngine).decode

    # ---- what the gateway calls

    def generate(self, request: GenerateRequest) -> TokenStream:
        """Sends the request at once. Raises EngineUnavailable. Ids must be unique among running requests."""
        self._require_ready()
        stream = TokenStream(self, request)
        self._send_request(stream)
        return stream

    def take_over(self, stream: TokenStream) -> None:
        """Sends the request of a stream that another engine owed and has sent nothing of. Raises EngineUnavailable."""
        self._require_ready()
        stream.moved_to(self)
        self._send_request(stream)

    def not_begun(self) -> list[TokenStream]:
        """Those of which nothing has come, in the order in which the engine got them."""
        return [stream for stream in self._streams.values() if not stream.has_begun]

    def ask_back(self, request_ids: list[str]) -> None:
        """The engine gives those back that it has not begun: `rescue` is asked for each, and those that no other engine
        takes are sent again. The others go on."""
        self.send(Withdraw(request_ids))

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        """load, unload, pin, unpin or probe; answers when it is done. Raises EngineUnavailable."""
        result = await self._call(AdapterCommand(next(self._call_ids), action, digest))
        assert isinstance(result, AdapterResult), "call ids are unique"
        if result.error is None:
            self.note_pin(action, digest)
        return result

    def note_pin(self, action: str, digest: str) -> None:
        """What the action means for an engine that is started later."""
        if action == "pin":
            self.pinned.add(digest)
        elif action in ("unpin", "unload"):
            self.pinned.discard(digest)

    async def status(self) -> Status:
        """Pid, counters and adapter residency, asked afresh. Raises EngineUnavailable."""
        result = await self._call(StatusRequest(next(self._call_ids)))
        assert isinstance(result, Status), "call ids are unique"
        return result

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        """report, tokens, pin, unpin, drop, find or held; see CacheRequest. Raises EngineUnavailable."""
        result = await self._call(CacheRequest(next(self._call_ids), action, hash, chain, first))
        assert isinstance(result, CacheReply), "call ids are unique"
        return result

    async def slot_history(self) -> SlotHistory:
        """Loads and evictions of adapters, and which would leave for one more. Raises EngineUnavailable."""
        result = await self._call(SlotHistoryRequest(next(self._call_ids)))
        assert isinstance(result, SlotHistory), "call ids are unique"
        return result

    async def profile(self, kind: str, seconds: float) -> ProfileReply:
        """torch, python or memory; answers when it was recorded. Raises EngineUnavailable."""
        result = await self._call(ProfileRequest(next(self._call_ids), kind, seconds))
        assert isinstance(result, ProfileReply), "call ids are unique"
        return result

    @property
    def connected(self) -> bool:
        return self._line is not None

    @property
    def in_flight(self) -> int:
        return len(self._streams)

    def adapters_in_use(self) -> set[str]:
        """By requests that are not answered yet, whether they run or wait, and by pins."""
        return self.pinned.union(self._asked)

    # ---- what streams call

    def abort(self, request_id: str) -> None:
        if self._streams.pop(request_id, None) is not None:
            self._note_left(request_id)
            if self._line is not None:
                self._abort_soon(request_id)

    def end_sequence(self, request_id: str, index: int) -> None:
        if request_id in self._streams and self._line is not None:
            self.send(EndSequence(request_id, index))

    def abort_later(self, request_id: str) -> None:
        """For a stream that was dropped: the garbage collector calls from anywhere, even with the loop gone."""
        if self._line is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abort_dropped, request_id)

    def _abort_dropped(self, request_id: str) -> None:
        if self._line is not None and request_id not in self._streams:
            self._note_left(request_id)
            self._abort_soon(request_id)

    def _abort_soon(self, request_id: str) -> None:
        if not self._aborted and self._loop is not None:
            self._loop.call_soon(self._send_aborts)
        self._aborted.append(request_id)

    def _send_aborts(self) -> None:
        aborted, self._aborted = self._aborted, []
        if self._line is not None:
            self.send(Abort(aborted))

    # ---- what the supervisor calls

    def connect(self, address: str | EngineAddress, on_cut: Callable[[], None] = lambda: None) -> None:
        """To an engine that listens, or will: on the unix socket of that path, or on another host. Needs a running
        event loop. on_cut: of an engine elsewhere, its connection is lost, and this one is of no use any more."""
        assert self._line is None, "disconnect first"
        self.is_draining = False
        self.load, self.num_requests = None, 0
        self._loop = asyncio.get_running_loop()
        self._line = EngineLine(address, self._receive, on_cut)
        self.last_message = time.monotonic()
        self.send(Hello(PROTOCOL, self._name))

    def disconnect(self, failure: EngineFailure) -> None:
        """Ends the connection; every stream and call ends with the failure at once."""
        self.ready = None
        self.on_end(self.stats)
        self.stats = EngineStats()
        if self._line is not None:
            self._line.close()
        self._line = None
        self.cache_followers.end()
        self.adapter_places.clear()
        owed = list(self._streams.values())
        self._streams.clear()
        self._asked.clear()
        self._adapter_of.clear()
        for stream in owed:
            if stream.has_begun or not self.rescue(stream):
                stream.fail(failure)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(EngineUnavailable(failure.code, failure.message))
        self._calls.clear()

    def send(self, message: ToEngine) -> None:
        assert self._line is not None, "connect first"
        self._line.send(self._encode(message))

    # ---- inside

    def _send_request(self, stream: TokenStream) -> None:
        assert stream.request.id not in self._streams, "request ids are made by the server and unique"
        self._streams[stream.request.id] = stream
        if stream.request.adapter_digest is not None:
            self._asked[stream.request.adapter_digest] += 1
            self._adapter_of[stream.request.id] = stream.request.adapter_digest
        self.num_requests += 1
        self.send(Generate(stream.request))

    def _note_left(self, request_id: str) -> None:
        digest = self._adapter_of.pop(request_id, None)
        if digest is not None:
            self._asked[digest] -= 1
            if not self._asked[digest]:
                del self._asked[digest]

    def _require_ready(self) -> None:
        if self.ready is None:
            raise EngineUnavailable("engine_unavailable", "The engine is not ready; it is starting or restarting.")

    async def _call(
        self, message: AdapterCommand | StatusRequest | CacheRequest | SlotHistoryRequest | ProfileRequest
    ) -> Answer:
        self._require_ready()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[message.call_id] = future
        try:
            self.send(message)
            return await future
        finally:
            self._calls.pop(message.call_id, None)

    def _receive(self) -> None:
        """Takes everything that has arrived."""
        while self._line is not None and (frame := self._line.receive()) is not None:
            try:
                message = self._decode(frame)
            except msgspec.DecodeError as error:
                _log.error("Dropped an undecodable message from the engine (%d bytes): %s", len(frame), error)
                continue
            self._dispatch(message)

    def _dispatch(self, message: FromEngine) -> None:
        self.last_message = time.monotonic()
        match message:
            case Deltas(deltas):
                for delta in deltas:
                    stream = self._streams.get(delta.request_id)
                    if stream is not None and stream.push(delta):
                        del self._streams[delta.request_id]
                        self._note_left(delta.request_id)
            case Withdrawn(request_ids):
                self._hand_on(request_ids)
            case Heartbeat(stats):
                self.stats = stats
            case CacheChanges():
                self.cache_followers.take(message)
            case AdapterMoves(places, is_all):
                self._note_places(places, is_all)
            case AdapterResult() | Status() | CacheReply() | SlotHistory() | ProfileReply():
                call = self._calls.get(message.call_id)
                if call is not None and not call.done():
                    call.set_result(message)
            case Welcome():
                self._begin(message)
            case PinnedAdapters(digests):
                self.pinned = set(digests)
            case ArtifactWanted():
                task = asyncio.ensure_future(self._send_artifact(message))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)
            case EngineLoad():
                self.load = message
            case Draining():
                self.is_draining = True
                self.on_change()
            case LoadProgress() | Fatal():
                self._on_event(message)

    def _begin(self, welcome: Welcome) -> None:
        """The engine serves. One that lived on while the line was cut says what is pinned; a new one knows of none, and
        gets the pins of before: no call waits for the answers."""
        is_new, self.epoch = welcome.epoch != self.epoch, welcome.epoch
        self.ready = welcome.ready
        before, self.pinned = self.pinned, set(welcome.pins)
        for digest in sorted(before - self.pinned) if is_new else ():
            self.pinned.add(digest)
            self.send(AdapterCommand(next(self._call_ids), "pin", digest))
        self.cache_followers.begin()
        self._on_event(welcome.ready)
        self.on_change()

    def _hand_on(self, request_ids: list[str]) -> None:
        """Requests that the engine has given back, unless their readers have left them meanwhile."""
        for request_id in request_ids:
            stream = self._streams.pop(request_id, None)
            if stream is not None:
                self._note_left(request_id)
                if not self.rescue(stream):
                    self._send_request(stream)

    async def _send_artifact(self, wanted: ArtifactWanted) -> None:
        part = await asyncio.to_thread(self.artifact_part, wanted)
        if self._line is not None:
            self.send(part)

    def _note_places(self, places: dict[str, str], is_all: bool) -> None:
        if is_all:
            self.adapter_places.clear()
        for digest, place in places.items():
            if place == "disk":
                self.adapter_places.pop(digest, None)
            else:
                self.adapter_places[digest] = place
