"""What ended sequences used, while an operator records them. Bounded; off when no operator asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec.structs import replace

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
        self._adapters: dict[str | None, int] = {None: 0}
        # (tags of its blocks one behind another, the request without them): a text for each block would take more.
        self._ended: deque[tuple[bytes, TracedRequest]] = deque()
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
        request = TracedRequest(
            blocks=[],
            prompt_blocks=min(found, len(tags)),
            owner=self._owners.setdefault(sequence.cache_owner, len(self._owners)),
            background=sequence.is_background,
            at=sequence.arrival_time,
            prompt_tokens=sequence.num_prompt_tokens,
            output_tokens=len(sequence.output_token_ids),
            adapter=self._adapters.setdefault(sequence.adapter_digest, len(self._adapters)),
        )
        self._ended.append((b"".join(tags), request))
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
            tags, request = self._ended.popleft()
            room -= len(tags) // TAG_BYTES
            taken.append(replace(request, blocks=tags.hex(" ", TAG_BYTES).split()))
        self._num_blocks -= _BLOCKS_AT_ONCE - room
        lost, self._lost = self._lost, 0
        return taken, lost, bool(self._ended)

    def _clear(self) -> None:
        self._ended.clear()
        self._owners.clear()
        self._adapters = {None: 0}
        self._until = 0.0
        self._num_blocks = self._lost = 0
