"""Which replica gets a request. Knows what replicas have and have to do, not how they are reached."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.cache.block_hashes import hashes_behind, identity
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.engine import Placement
from multiflora_platform.fleet.block_index import BlockIndex, keys_of
from multiflora_platform.fleet.pace import Pace
from multiflora_platform.fleet.prediction import Prediction, soonest
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.replica_load import ReplicaLoad, Reserved
from multiflora_platform.fleet.scaling import HotBlocks, Load
from multiflora_platform.observability.observers import RoutingObserver

if TYPE_CHECKING:
    from multiflora_engine.process.token_stream import TokenStream

Policy = Literal["score", "least-loaded", "round-robin"]
Hashes = Callable[[GenerateRequest, int], Iterator[list[bytes]]]
"""(request, block size) -> the hashes that the engine will give its prompt's whole blocks: of the first _LOOKED_UP
tokens, then of those behind them, which are computed when they are asked for."""

_LOOKED_UP = 8192
"""Tokens of a prompt; what lies behind them is looked up only where a replica has all of them."""


def prompt_hashes_by(base_digest: str, reach_of: Callable[[str | None], KvReach]) -> Hashes:
    """reach_of: what the KV of an adapter's requests depends on, by its digest."""

    def hashes(request: GenerateRequest, block_size: int) -> Iterator[list[bytes]]:
        prompt = request.prompt_token_ids
        asked = prompt[: request.num_asked_tokens or None]
        root, activation, _ = identity(base_digest, reach_of(request.adapter_digest), request.cache_salt, asked)
        first = hashes_behind(root, prompt[:_LOOKED_UP], block_size, activation=activation)
        yield first
        parent, number = first[-1] if first else root, len(first)
        yield hashes_behind(parent, prompt[number * block_size :], block_size, number, activation)

    return hashes


def _no_hashes(request: GenerateRequest, block_size: int) -> Iterator[list[bytes]]:
    return iter(([], []))


@dataclass(frozen=True, slots=True)
class Choice:
    """replica: that gets the request. placement: why. pending: of the prompt's tokens, those that it will compute.
    keys: of the prompt's whole blocks."""

    replica: EngineReplica
    placement: Placement
    pending: int = 0
    keys: list[bytes] = field(default_factory=list)


class Router:
    """policy: round-robin takes replicas in turn; least-loaded the one with the fewest requests, of equals in turn;
    score the one that is predicted to have the first token soonest. hashes: what score looks prompts up by. observer:
    hears of each choice. hot: filled with blocks that are found, where something is to be told of them."""

    def __init__(
        self, policy: Policy, hashes: Hashes = _no_hashes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.hashes = hashes
        self.observer = RoutingObserver()
        self._policy = policy
        self._clock = clock
        self._turn = 0
        self._index = BlockIndex()
        self._loads: dict[str, ReplicaLoad] = {}
        self._pace = Pace()
        self.hot: HotBlocks | None = None

    def follow(self, replica: EngineReplica) -> None:
        """It tells what it has from its first block on. Before it serves."""
        load = self._loads[replica.id] = ReplicaLoad(self._index.follower())
        if self._policy == "score":
            replica.cache_followers.add(load)

    def forget(self, replica: EngineReplica) -> None:
        """It is gone, with what it had."""
        load = self._loads.pop(replica.id)
        load.cleared()
        self._index.release(load.bit)

    async def catch_up(self, replica: EngineReplica) -> None:
        """Of one that may have served others before it was followed: looks up what it has cached by now."""
        if self._policy != "score":
            return
        load = self._loads[replica.id]
        first: int | None = 0
        with load.catching_up(), contextlib.suppress(EngineUnavailable):
            while first is not None:
                reply = await replica.cache("held", first=first)
                load.held(reply.held)
                first = reply.first

    def choose(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> Choice:
        """One of these, of which there is at least one. `sent` is to follow at once."""
        began = time.perf_counter()
        self._turn += 1
        in_turn = [replicas[(self._turn + place) % len(replicas)] for place in range(len(replicas))]
        choice = self._soonest(in_turn, request) if self._policy == "score" else self._next(in_turn)
        self.observer.decided(time.perf_counter() - began)
        return choice

    def load(self, replicas: Sequence[EngineReplica]) -> Load:
        """Of these, which serve; there is at least one. What waits is what their heartbeats tell, or what was given to
        them since."""
        now, stats = self._clock(), [replica.stats for replica in replicas]
        self._learn_pace(replicas, now)
        ready = replicas[0].ready
        assert ready is not None, "they serve"
        waiting = [
            max(one.pending_prefill_tokens, self._loads[replica.id].pending_tokens())
            for replica, one in zip(replicas, stats, strict=True)
        ]
        blocks, free = sum(one.num_blocks for one in stats), sum(one.free_blocks for one in stats)
        return Load(
            replicas=len(replicas),
            queue_seconds=self._pace.seconds(sum(waiting) / len(waiting), 0),
            kv_use=1 - free / blocks if blocks else 0.0,  # none has told yet
            seats=sum(one.running for one in stats) / (len(replicas) * ready.max_num_seqs),
            hot_blocks=self.hot.count(now) if self.hot is not None else 0,
            blocks=ready.num_blocks,
        )

    def _next(self, in_turn: Sequence[EngineReplica]) -> Choice:
        if len(in_turn) == 1:
            return Choice(in_turn[0], Placement(in_turn[0].id, "only"))
        if self._policy == "round-robin":
            return Choice(in_turn[0], Placement(in_turn[0].id, "turn"))
        in_flight = [replica.client.in_flight for replica in in_turn]
        least = min(in_flight)
        chosen = in_turn[in_flight.index(least)]
        return Choice(chosen, Placement(chosen.id, "tie" if in_flight.count(least) > 1 else "idle"))

    def sent(self, choice: Choice, stream: TokenStream) -> None:
        """The chosen replica has the request now."""
        self.observer.placed(choice.placement)
        if self._policy != "score":
            return
        number = choice.replica.client.num_requests
        reserved = Reserved(choice.pending, choice.keys, stream.request.adapter_digest, number)
        self._loads[choice.replica.id].reserve(stream, reserved)

    def taken_from(self, replica: EngineReplica, stream: TokenStream) -> None:
        """It is not to answer the request any more."""
        self._loads[replica.id].release(stream)

    def _soonest(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> Choice:
        ready = replicas[0].ready
        assert ready is not None, "requests go to replicas that serve"
        pending = {replica.id: self._pending_tokens(replica) for replica in replicas}
        keys, found = self._looked_up(replicas, request, ready.block_size)
        # The last token is computed in any case, and so is the block that it lies in.
        most = 0 if request.reads_whole_prompt else (len(request.prompt_token_ids) - 1) // ready.block_size
        now = self._clock()
        if self.hot is not None:
            self.hot.note(keys[: max(found.values())], now)
        self._learn_pace(replicas, now)
        predictions = [
            self._predicted(one, request, min(found[one.id], most) * ready.block_size, pending[one.id], now)
            for one in replicas
        ]
        chosen, runner_up, reason = soonest(predictions, self._pace, lambda one: _distance(one, request, keys))
        placement = Placement(
            chosen.replica, reason, chosen.cached, chosen.seconds, None if runner_up is None else runner_up.seconds
        )
        replica = next(one for one in replicas if one.id == chosen.replica)
        return Choice(replica, placement, len(request.prompt_token_ids) - chosen.cached, keys)

    def _learn_pace(self, replicas: Sequence[EngineReplica], now: float) -> None:
        for replica in replicas:
            self._loads[replica.id].slowness.observe(replica.stats, self._pace, now)

    def _looked_up(
        self, replicas: Sequence[EngineReplica], request: GenerateRequest, block_size: int
    ) -> tuple[list[bytes], dict[str, int]]:
        """Keys of the prompt's blocks, and how many of the first ones each replica has, or is computing."""
        parts = self.hashes(request, block_size)
        keys = keys_of(next(parts))
        found = self._leading(replicas, keys)
        have_all = [one for one in replicas if found[one.id] == len(keys)]
        if len(request.prompt_token_ids) > _LOOKED_UP and keys and have_all:
            behind = keys_of(next(parts))
            for id, number in self._leading(have_all, behind).items():
                found[id] += number
            keys += behind
        return keys, found

    def _leading(self, replicas: Sequence[EngineReplica], keys: Sequence[bytes]) -> dict[str, int]:
        """How many of the first blocks each of them has, or is computing."""
        found = dict.fromkeys((replica.id for replica in replicas), len(keys))
        left = {load.bit: (id, load.expected) for id, load in self._loads.items() if id in found}
        have = sum(left)  # a bit of each that has had all so far
        for number, key in enumerate(keys):
            missing = have & ~self._index.holders(key)
            if not missing:
                continue
            for bit, (id, expected) in list(left.items()):
                if missing & bit and key not in expected:
                    found[id] = number
                    have -= bit
                    del left[bit]
            if not left:
                break
        return found

    def _pending_tokens(self, replica: EngineReplica) -> int:
        """Of prompts that it has not computed, whichever gateway gave it them."""
        load = self._loads[replica.id]
        return load.pending_tokens() + load.others_tokens(replica.client.load)

    def _predicted(
        self, replica: EngineReplica, request: GenerateRequest, cached: int, pending: int, now: float
    ) -> Prediction:
        """To the first token: what stands before it, its own, its adapter's way to a slot, and the answers that are
        written meanwhile."""
        load = self._loads[replica.id]
        own = len(request.prompt_token_ids) - cached
        running = max(0, replica.client.in_flight - load.num_reserved)
        if (told := replica.client.load) is not None:
            running = max(running, told.running)
        seconds = self._pace.seconds(pending + own, running) * load.slowness.times(self._pace, now)
        adapter_seconds = load.adapter_seconds(replica, request.adapter_digest)
        return Prediction(replica.id, cached, pending, running, adapter_seconds, seconds + adapter_seconds)


def _distance(one: Prediction, request: GenerateRequest, keys: Sequence[bytes]) -> bytes:
    """Of equals, beginnings have their homes (rendezvous hashing), which stay when others come or go; so have adapters
    that are in no slot."""
    beginning = keys[0].hex() if keys else request.adapter_digest or request.id
    what = request.adapter_digest if one.adapter_seconds else beginning
    return blake2b(f"{what} {one.replica}".encode(), digest_size=8).digest()
