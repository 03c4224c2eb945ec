"""The engines of a server as one: a request goes to one of them, administration to all, reports come from all.

A request of which its engine had sent nothing when it died is given to another one. Knows no HTTP and no adapters'
names; which replica is best for a request is the router's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import (
    AdapterResult,
    CacheReply,
    EngineStats,
    Fatal,
    Ready,
    Status,
)
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.engine import EngineCalls, Life, Placement, UnknownReplica
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.reports import common, counters_of, joined, merged_cache, sum_of
from multiflora_platform.fleet.routing import Choice, Hashes, Router
from multiflora_platform.fleet.scaling import HotBlocks, Load

if TYPE_CHECKING:
    from multiflora_engine.process.token_stream import TokenStream

Answer = TypeVar("Answer")

_NONE_READY = "No engine is ready; they are starting or restarting."
_REMEMBERED = 4096
_MOST_MOVES = 2
# What a fleet of several is as a whole: the first of these that one of them is.
_STATES = ("ready", "draining", "starting", "restarting", "failed", "stopped")


class Fleet:
    """An EngineHandle. Made of one replica it is that replica: nothing is chosen, and a request that it loses has
    failed. Made of none, replicas are added and removed as they come and go."""

    def __init__(self, replicas: Sequence[EngineReplica], router: Router | None = None) -> None:
        self.replicas: tuple[EngineReplica, ...] = ()
        self._only = replicas[0] if len(replicas) == 1 else None
        self._router = router or Router("score")
        # Counters of engines that are gone: sums of what only grows must not shrink.
        self._ended = EngineStats()
        self._places: OrderedDict[str, Placement] = OrderedDict()
        # Told of each replica that is removed.
        self.on_removed: Callable[[EngineReplica], None] = lambda replica: None
        if self._only is not None:
            self.replicas = (self._only,)
            self._only_place = Placement(self._only.id, "only")
            return
        for replica in replicas:
            self._take(replica)

    def add(self, replica: EngineReplica) -> None:
        """One that has not served yet: from its first `ready` on requests go to it. What all others have pinned it
        pins."""
        assert self._only is None, "a fleet of one stays so"
        pinned = [other.client.pinned for other in self.replicas]
        replica.client.pinned |= set.intersection(*pinned) if pinned else set()
        self._take(replica)

    def _take(self, replica: EngineReplica) -> None:
        self._router.follow(replica)
        replica.client.rescue = self._rescue
        replica.client.on_change = self._share_out
        replica.client.on_end = self._note_end
        self.replicas = (*self.replicas, replica)

    def retire(self, replica: EngineReplica) -> None:
        """It gets no more requests, and is to be stopped once it has answered what it has begun."""
        replica.retired = True
        self._share_out()

    def remove(self, replica: EngineReplica) -> None:
        """One that was stopped."""
        self.replicas = tuple(one for one in self.replicas if one is not replica)
        self._router.forget(replica)
        self.on_removed(replica)

    async def catch_up(self, replica: EngineReplica) -> None:
        """An engine that has served others before tells what it has cached by now."""
        await self._router.catch_up(replica)

    def look_up_by(self, hashes: Hashes) -> None:
        """From now on a request goes by what the replicas have of its prompt, too."""
        self._router.hashes = hashes

    def note_hot(self, window: float) -> None:
        """From now on `load` tells what was found again in the last `window` seconds."""
        self._router.hot = HotBlocks(window)

    # ---- what the platform sees

    @property
    def state(self) -> str:
        states = {replica.state for replica in self.replicas}
        state = next((state for state in _STATES if state in states), "starting")
        return "ready" if state == "draining" else state

    @property
    def failure(self) -> Fatal | None:
        """Why the engines cannot serve; None while one of them might."""
        failed = [replica for replica in self.replicas if replica.supervisor.state == "failed"]
        return failed[0].supervisor.failure if failed and len(failed) == len(self.replicas) else None

    @property
    def restarts(self) -> int:
        return sum(replica.restarts for replica in self.replicas)

    @property
    def ready(self) -> Ready | None:
        if self._only is not None:
            return self._only.ready
        return common([ready for replica in self.replicas if (ready := replica.ready) is not None])

    @property
    def stats(self) -> EngineStats:
        if self._only is not None:
            return self._only.stats
        return sum_of([self._ended, *(replica.stats for replica in self.replicas)])

    def load(self) -> Load | None:
        """Of the replicas that are to take requests; None while one of them does not serve. Only of several."""
        serving = [replica for replica in self.replicas if not replica.retired]
        if not serving or any(replica.ready is None for replica in serving):
            return None
        return self._router.load(serving)

    def addressed(self, replica: str | None) -> EngineCalls:
        return self if replica is None else self._replica(replica)

    def each(self, replica: str | None = None) -> Sequence[EngineReplica]:
        if replica is not None:
            return [self._replica(replica)]
        return self._ready()

    def _found(self, id: str) -> EngineReplica | None:
        return next((one for one in self.replicas if one.id == id), None)

    def _replica(self, id: str) -> EngineReplica:
        found = self._found(id)
        if found is None:
            raise UnknownReplica(id, [one.id for one in self.replicas])
        return found

    def _ready(self) -> list[EngineReplica]:
        ready = [replica for replica in self.replicas if replica.ready is not None]
        if not ready:
            raise EngineUnavailable("engine_unavailable", _NONE_READY)
        return ready

    def replica_of(self, request_id: str) -> str | None:
        place = self.placement_of(request_id)
        return None if place is None else place.replica

    def placement_of(self, request_id: str) -> Placement | None:
        return self._only_place if self._only is not None else self._places.get(request_id)

    def life_of(self, request_id: str) -> Life | None:
        replica = self._found(self.replica_of(request_id) or "")
        return None if replica is None else Life(replica.id, replica.epoch)

    # ---- a request

    def generate(self, request: GenerateRequest) -> TokenStream:
        if self._only is not None:
            return self._only.generate(request)
        choice = self._router.choose(self._open(), request)
        stream = choice.replica.generate(request)
        self._note_choice(choice, stream)
        return stream

    def _open(self) -> list[EngineReplica]:
        """Those that take requests: ready and, if there are others, not about to go. Raises EngineUnavailable."""
        ready = self._ready()
        return [one for one in ready if not one.is_leaving] or ready

    def _share_out(self) -> None:
        """Of requests that no engine has begun, when one is there from now on or about to go: those that are more than
        an equal part of all are asked back, what came last first. One that goes keeps none."""
        serving = [replica for replica in self.replicas if replica.ready is not None]
        staying = [replica for replica in serving if not replica.is_leaving]
        if not staying:
            return
        part = -(-sum(replica.client.in_flight for replica in serving) // len(staying))
        for replica in serving:
            too_many = replica.client.in_flight - (part if replica in staying else 0)
            if too_many > 0 and (not_begun := replica.client.not_begun()):
                replica.client.ask_back([stream.request.id for stream in not_begun[-too_many:]])

    def _rescue(self, stream: TokenStream) -> bool:
        """Gives another engine a request that one has lost or given back, as it was, its deadline included."""
        request = stream.request
        place = self._places.get(request.id)
        lost = None if place is None else self._found(place.replica)
        is_dead = lost is None or lost.ready is None
        moves = is_dead + (0 if place is None else place.moves)
        if moves > _MOST_MOVES:
            return False
        if lost is not None:
            self._router.taken_from(lost, stream)
        try:
            choice = self._router.choose(self._open(), request)
            choice.replica.client.take_over(stream)
        except EngineUnavailable:
            return False
        if lost is not None and lost is not choice.replica:
            cause = "drain" if lost.is_leaving else "engine_dead" if is_dead else "balance"
            self._router.observer.moved(lost.id, cause)
        self._note_choice(choice, stream, moves)
        return True

    def _note_choice(self, choice: Choice, stream: TokenStream, moves: int = 0) -> None:
        self._router.sent(choice, stream)
        self._places[stream.request.id] = msgspec.structs.replace(choice.placement, moves=moves)
        if len(self._places) > _REMEMBERED:
            self._places.popitem(last=False)

    def _note_end(self, stats: EngineStats) -> None:
        self._ended = sum_of([self._ended, counters_of(stats)])

    # ---- administration

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        """An engine that is not there does it when it is back. Of pins, all hold or none: what one cannot pin is
        unpinned again where it was not pinned before."""
        if self._only is not None:
            return await self._only.adapter(action, digest)
        if action == "probe":
            return await self._open()[0].adapter(action, digest)
        self._ready()  # raises while none is there: then nothing is noted
        were_pinned = [replica for replica in self.replicas if digest in replica.client.pinned]
        for replica in self.replicas:
            if replica.ready is None:
                replica.client.note_pin(action, digest)
        results = await self._ask_all(lambda replica: replica.adapter(action, digest))
        failed = [(replica, result) for replica, result in results if result.error is not None]
        if not failed:
            for replica in self.replicas:
                replica.client.note_pin(action, digest)
            return results[0][1]
        if action == "pin":
            await self._unpin(digest, were_pinned)
        replica, result = failed[0]
        return AdapterResult(result.call_id, f"replica {replica.id}: {result.error}", is_full=result.is_full)

    async def _unpin(self, digest: str, besides: Sequence[EngineReplica]) -> None:
        others = [replica for replica in self.replicas if replica not in besides]
        for replica in others:
            replica.client.note_pin("unpin", digest)
        for replica in others:
            with contextlib.suppress(EngineUnavailable):
                await replica.adapter("unpin", digest)

    async def status(self) -> Status:
        if self._only is not None:
            return await self._only.status()
        together = joined([status for _, status in await self._ask_all(EngineReplica.status)])
        return Status(together.call_id, together.pid, sum_of([self._ended, together.stats]), together.adapters)

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        if self._only is not None:
            return await self._only.cache(action, hash, chain, first)
        assert action != "held", "each engine is mirrored by itself"
        return merged_cache(action, [r for _, r in await self._ask_all(lambda one: one.cache(action, hash, chain))])

    async def _ask_all(self, ask: Callable[[EngineReplica], Awaitable[Answer]]) -> list[tuple[EngineReplica, Answer]]:
        """What those that are there answer; one that goes meanwhile is not there. Raises EngineUnavailable."""
        asked = self._ready()
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        answered: list[tuple[EngineReplica, Answer]] = []
        for replica, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, EngineUnavailable):
                    raise answer
            else:
                answered.append((replica, answer))
        if not answered:
            raise EngineUnavailable("engine_unavailable", _NONE_READY)
        return answered
