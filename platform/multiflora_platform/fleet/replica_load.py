"""What one replica has to do and will have, as far as this gateway gave it. Knows no other replica and no scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import ref

from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import EngineLoad
from multiflora_platform.fleet.block_index import ReplicaBlocks
from multiflora_platform.fleet.pace import Slowness

if TYPE_CHECKING:
    from multiflora_engine.process.token_stream import TokenStream
    from multiflora_platform.fleet.replica import EngineReplica

Key = TypeVar("Key")

_LOAD_SECONDS = {"slot": 0.0, "cpu": 0.01, "disk": 0.05}
"""By where the adapter is. Their order decides, hardly their size."""
_NO_SLOT_SECONDS = 1.0
"""Until a slot is free where unanswered requests, running or waiting, want all of them: so long that any replica with
room is sooner."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a request that was given to a replica will take there before its first token: select and reserve are one
    step, so that requests that come together do not all find the same replica idle."""

    tokens: int
    keys: list[bytes]
    adapter: str | None
    number: int
    """Of the request among those that the line to the replica has sent."""


class ReplicaLoad:
    """The CacheFollower of the replica's engine."""

    def __init__(self, blocks: ReplicaBlocks) -> None:
        self.bit = blocks.bit
        self._blocks = blocks
        self.slowness = Slowness()
        # Blocks that it will have when it comes to what was given to it.
        self.expected: Counter[bytes] = Counter()
        self._reserved: list[tuple[ref[TokenStream], Reserved]] = []
        # Adapters that it will have in a slot by then.
        self.expected_adapters: Counter[str] = Counter()

    def catching_up(self) -> AbstractContextManager[None]:
        """While `held` tells what was cached before it was followed."""
        return self._blocks.catching_up()

    def held(self, changes: list[CacheChange]) -> None:
        self._blocks.held(changes)

    def changed(self, changes: list[CacheChange]) -> None:
        self._blocks.changed(changes)

    def cleared(self) -> None:
        """The engine is gone; the next one begins with nothing."""
        self._blocks.cleared()
        self._reserved.clear()
        self.expected.clear()
        self.expected_adapters.clear()

    def reserve(self, stream: TokenStream, reserved: Reserved) -> None:
        self._reserved.append((ref(stream), reserved))
        self.expected.update(reserved.keys)
        if reserved.adapter is not None:
            self.expected_adapters[reserved.adapter] += 1

    def pending_tokens(self) -> int:
        """Of prompts that have not begun. What has begun, or has ended, is taken off first."""
        self._keep(lambda stream: not (stream.has_begun or stream.is_closed))
        return sum(one.tokens for _, one in self._reserved)

    def release(self, stream: TokenStream) -> None:
        """Another replica has the request."""
        self._keep(lambda other: other is not stream)

    def _keep(self, is_kept: Callable[[TokenStream], bool]) -> None:
        """Takes off what was reserved for the others, and for streams that were dropped."""
        kept = []
        for reserved in self._reserved:
            waiting, one = reserved
            stream = waiting()
            if stream is not None and is_kept(stream):
                kept.append(reserved)
            else:
                _take_off(self.expected, one.keys)
                _take_off(self.expected_adapters, () if one.adapter is None else (one.adapter,))
        self._reserved = kept

    def others_tokens(self, load: EngineLoad | None) -> int:
        """Of prompts that other gateways gave it. load: that it told last; pending_tokens stands before."""
        if load is None:
            return 0
        own = sum(one.tokens for _, one in self._reserved if one.number <= load.acked)
        return max(0, load.pending_prefill_tokens - own)

    @property
    def num_reserved(self) -> int:
        return len(self._reserved)

    def adapter_seconds(self, replica: EngineReplica, digest: str | None) -> float:
        """Until the adapter is in a slot, as the engine tells where it is; pending_tokens stands before."""
        if digest is None or digest in self.expected_adapters:
            return 0.0
        place = replica.client.adapter_places.get(digest, "disk")
        seconds = _LOAD_SECONDS[place]
        if seconds and replica.ready is not None and len(replica.client.adapters_in_use()) >= replica.ready.lora_slots:
            seconds += _NO_SLOT_SECONDS
        return seconds


def _take_off(counts: Counter[Key], keys: Iterable[Key]) -> None:
    for key in keys:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
