"""What one replica has to do and will have, as far as this gateway gave it. Knows no other replica and no scores."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_platform.fleet.block_index import ReplicaBlocks
from multiflora_platform.fleet.pace import Pace

if TYPE_CHECKING:
    from multiflora_engine.process.token_stream import TokenStream


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a request that was given to a replica will take there before its first token: select and reserve are one
    step, so that requests that come together do not all find the same replica idle."""

    tokens: int
    keys: list[bytes]


class ReplicaLoad:
    """The CacheFollower of the replica's engine."""

    def __init__(self, blocks: ReplicaBlocks) -> None:
        self.bit = blocks.bit
        self._blocks = blocks
        self.pace = Pace()
        # Blocks that it will have when it comes to what was given to it.
        self.expected: Counter[bytes] = Counter()
        self._reserved: list[tuple[ref[TokenStream], Reserved]] = []
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

    def reserve(self, stream: TokenStream, reserved: Reserved) -> None:
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
