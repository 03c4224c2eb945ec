"""Which replica gets a request. Knows what replicas have and have to do, not how they are reached."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal
from weakref import ref

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.cache.block_hashes import hashes_behind, identity
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.fleet.block_index import BlockIndex, ReplicaBlocks, keys_of
from multiflora_platform.fleet.pace import Pace
from multiflora_platform.fleet.replica import EngineReplica

if TYPE_CHECKING:
    from multiflora_engine.process.token_stream import TokenStream

Policy = Literal["score", "least-loaded", "round-robin"]
Hashes = Callable[[GenerateRequest, int], list[bytes]]
"""(request, block size) -> the hashes that the engine will give its whole blocks."""

_MOST_LOOKED_UP = 8192
"""Tokens of a prompt: what replicas have of it is decided by then."""
_LOAD_SECONDS = 0.05
"""Until an adapter is on a replica that has not had it lately."""
_AS_SOON = 1.1
"""Times the soonest: of those that are no later, the one that has most of the prompt leaves most to the others."""


def prompt_hashes_by(base_digest: str, reach_of: Callable[[str | None], KvReach]) -> Hashes:
    """reach_of: what the KV of an adapter's requests depends on, by its digest."""

    def hashes(request: GenerateRequest, block_size: int) -> list[bytes]:
        prompt = request.prompt_token_ids
        asked = prompt[: request.num_asked_tokens or None]
        root, activation, _ = identity(base_digest, reach_of(request.adapter_digest), request.cache_salt, asked)
        return hashes_behind(root, prompt[:_MOST_LOOKED_UP], block_size, activation=activation)

    return hashes


def _no_hashes(request: GenerateRequest, block_size: int) -> list[bytes]:
    return []


@dataclass(frozen=True, slots=True)
class Choice:
    """replica: that gets the request. cached: of its prompt's tokens, those that it has there, or will have when it
    comes to it. seconds: to its first token, as predicted; 0 where the policy predicts none."""

    replica: EngineReplica
    cached: int = 0
    seconds: float = 0.0
    keys: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Reserved:
    """What a request that was given to a replica will take there before its first token: select and reserve are one
    step, so that requests that come together do not all find the same replica idle."""

    tokens: int
    keys: list[bytes]


class _Load:
    """What one replica has and has to do, as far as this process gave it. The CacheFollower of its engine."""

    def __init__(self, blocks: ReplicaBlocks) -> None:
        self.bit = blocks.bit
        self._blocks = blocks
        self.pace = Pace()
        # Blocks that it will have when it comes to what was given to it.
        self.expected: Counter[bytes] = Counter()
        self._reserved: list[tuple[ref[TokenStream], _Reserved]] = []
        # The last that came to it, as many as it has slots.
        self.adapters: OrderedDict[str, None] = OrderedDict()

    def changed(self, changes: list[CacheChange]) -> None:
        self._blocks.changed(changes)

    def cleared(self) -> None:
        """The engine is gone; the next one begins with nothing."""
        self._blocks.cleared()
        self._reserved.clear()
        self.expected.clear()
        self.adapters.clear()

    def reserve(self, stream: TokenStream, reserved: _Reserved) -> None:
        self._reserved.append((ref(stream), reserved))
        self.expected.update(reserved.keys)

    def pending_tokens(self) -> int:
        """Of prompts that have not begun. What has begun, or has ended, is taken off first."""
        kept = []
        for waiting, one in self._reserved:
            stream = waiting()
            if stream is not None and not (stream.has_begun or stream.is_closed):
                kept.append((waiting, one))
            else:
                self._expect_no_more(one.keys)
        self._reserved = kept
        return sum(one.tokens for _, one in kept)

    def _expect_no_more(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.expected[key] -= 1
            if not self.expected[key]:
                del self.expected[key]

    @property
    def num_reserved(self) -> int:
        return len(self._reserved)

    def note_adapter(self, digest: str, slots: int) -> None:
        self.adapters[digest] = None
        self.adapters.move_to_end(digest)
        while len(self.adapters) > slots:
            self.adapters.popitem(last=False)


class Router:
    """policy: round-robin takes replicas in turn; least-loaded the one with the fewest requests, of equals in turn;
    score the one that is predicted to have the first token soonest. hashes: what score looks prompts up by."""

    def __init__(self, policy: Policy, hashes: Hashes = _no_hashes) -> None:
        self.hashes = hashes
        self._policy = policy
        self._turn = 0
        self._index = BlockIndex()
        self._loads: dict[str, _Load] = {}

    def follow(self, replicas: Sequence[EngineReplica]) -> None:
        """Replicas tell what they have from their first block on. Once, before any of them serves."""
        for number, replica in enumerate(replicas):
            load = self._loads[replica.id] = _Load(self._index.follower(number))
            if self._policy == "score":
                replica.cache_followers.add(load)

    def choose(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> Choice:
        """One of these, of which there is at least one. `sent` is to follow at once."""
        self._turn += 1
        in_turn = [replicas[(self._turn + place) % len(replicas)] for place in range(len(replicas))]
        if self._policy == "round-robin":
            return Choice(in_turn[0])
        if self._policy == "least-loaded":
            return Choice(min(in_turn, key=lambda replica: replica.client.in_flight))
        return self._soonest(in_turn, request)

    def sent(self, choice: Choice, stream: TokenStream) -> None:
        """The chosen replica has the request now."""
        if self._policy != "score":
            return
        load, request = self._loads[choice.replica.id], stream.request
        load.reserve(stream, _Reserved(len(request.prompt_token_ids) - choice.cached, choice.keys))
        ready = choice.replica.ready
        if request.adapter_digest is not None and ready is not None:
            load.note_adapter(request.adapter_digest, ready.lora_slots)

    def _soonest(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> Choice:
        ready = replicas[0].ready
        assert ready is not None, "requests go to replicas that serve"
        keys = keys_of(self.hashes(request, ready.block_size))
        pending = {replica.id: self._loads[replica.id].pending_tokens() for replica in replicas}
        found = self._leading(replicas, keys)
        # The last token is computed in any case, and so is the block that it lies in.
        most = (len(request.prompt_token_ids) - 1) // ready.block_size
        choices = []
        for replica in replicas:
            cached = min(found[replica.id], most) * ready.block_size
            choices.append(Choice(replica, cached, self._seconds(replica, request, cached, pending[replica.id]), keys))
        limit = _AS_SOON * min(choice.seconds for choice in choices)
        near = [choice for choice in choices if choice.seconds <= limit]
        home = {choice.replica.id: _distance(choice.replica.id, request, keys) for choice in near}
        return min(near, key=lambda choice: (-choice.cached, choice.seconds, home[choice.replica.id]))

    def _leading(self, replicas: Sequence[EngineReplica], keys: Sequence[bytes]) -> dict[str, int]:
        """How many of the first blocks each of them has, or is computing."""
        found = dict.fromkeys((replica.id for replica in replicas), len(keys))
        loads = [(replica.id, self._loads[replica.id]) for replica in replicas]
        left = [(load.bit, id, load.expected) for id, load in loads]
        for number, key in enumerate(keys):
            holders = self._index.holders(key)
            missing = [one for one in left if not holders & one[0] and key not in one[2]]
            if missing:
                for one in missing:
                    found[one[1]] = number
                left = [one for one in left if one not in missing]
                if not left:
                    break
        return found

    def _seconds(self, replica: EngineReplica, request: GenerateRequest, cached: int, pending: int) -> float:
        """To the first token: what stands before it, its own, its adapter's way to a slot, and the answers that are
        written meanwhile."""
        load = self._loads[replica.id]
        load.pace.observe(replica.stats)
        own = len(request.prompt_token_ids) - cached
        running = max(0, replica.client.in_flight - load.num_reserved)
        seconds = (pending + own) * load.pace.prompt_seconds + running * load.pace.answer_seconds
        if request.adapter_digest is not None and request.adapter_digest not in load.adapters:
            seconds += _LOAD_SECONDS
        return seconds


def _distance(replica: str, request: GenerateRequest, keys: Sequence[bytes]) -> bytes:
    """Of equals, adapters and beginnings have their homes (rendezvous hashing), which stay when others come or go."""
    what = request.adapter_digest or (keys[0].hex() if keys else request.id)
    return blake2b(f"{what} {replica}".encode(), digest_size=8).digest()
