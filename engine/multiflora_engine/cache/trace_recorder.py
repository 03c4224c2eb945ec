"""Which blocks ended sequences used, while an operator records them. Bounded; off when no operator asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.protocol.traced_request import TracedRequest

# Seconds for which it goes on after it was asked for what it has.
_PATIENCE = 60.0
_MOST_BLOCKS = 1_000_000
# Of one answer, which the step loop writes: well below a millisecond.
_BLOCKS_AT_ONCE = 16_384


class TraceRecorder:
    """clock: seconds."""

    def __init__(self, block_size: int, clock: Callable[[], float]) -> None:
        self._block_size = block_size
        self._clock = clock
        self._until = 0.0
        self._owners: dict[str, int] = {}
        # (tags of the blocks in one text, the prompt's blocks, the owner's number, whether it was in the background)
        self._ended: deque[tuple[bytes, int, int, bool]] = deque()
        self._num_blocks = 0
        self._lost = 0

    def note(self, sequence: Sequence) -> None:
        """It ends; of a request's continuations the first one counts."""
        if not self._until or sequence.index:
            return
        if self._clock() > self._until:
            self._clear()
            return
        tags = [hash[:TAG_BYTES] for hash in sequence.block_hashes[: sequence.num_computed_tokens // self._block_size]]
        # One token of a prompt is always computed, and its block with it.
        found = 0 if sequence.reads_whole_prompt else (sequence.num_prompt_tokens - 1) // self._block_size
        owner = self._owners.setdefault(sequence.cache_owner, len(self._owners))
        self._ended.append((b"".join(tags), min(found, len(tags)), owner, sequence.is_background))
        self._num_blocks += len(tags)
        while self._num_blocks > _MOST_BLOCKS:
            self._num_blocks -= len(self._ended.popleft()[0]) // TAG_BYTES
            self._lost += 1

    def take(self) -> tuple[list[TracedRequest], int, bool]:
        """What ended since it was asked before, how many of these are lost, and whether there is more to take. It
        records from the first time on."""
        now = self._clock()
        if now > self._until:
            self._clear()
        self._until = now + _PATIENCE
        taken: list[TracedRequest] = []
        room = _BLOCKS_AT_ONCE
        while self._ended and (not taken or len(self._ended[0][0]) <= room * TAG_BYTES):
            tags, prompt_blocks, owner, background = self._ended.popleft()
            room -= len(tags) // TAG_BYTES
            taken.append(TracedRequest(tags.hex(" ", TAG_BYTES).split(), prompt_blocks, owner, background))
        self._num_blocks -= _BLOCKS_AT_ONCE - room
        lost, self._lost = self._lost, 0
        return taken, lost, bool(self._ended)

    def _clear(self) -> None:
        self._ended.clear()
        self._owners.clear()
        self._until = 0.0
        self._num_blocks = self._lost = 0
