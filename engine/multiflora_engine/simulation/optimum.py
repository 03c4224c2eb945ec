"""What the best policy could find, if it knew the future: the block whose next use is farthest is evicted.

L. A. Belady, IBM Systems Journal 1966. Of blocks with the same next use the deepest goes first, as a hit needs all
blocks before it; a request's own blocks stay until it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.replay import Found

_NEVER = 1 << 60


def optimum(trace: Sequence[TracedRequest], num_blocks: int) -> Found:
    """As `replay` counts; memory grows with the trace."""
    cache = _Foreseeing(_uses(trace, num_blocks), num_blocks)
    counts = Found()
    for request in trace:
        if len(request.blocks) > num_blocks:
            counts.skipped += 1
        else:
            counts.count(cache.run(request), request.prompt_blocks)
    return counts


def _uses(trace: Sequence[TracedRequest], num_blocks: int) -> dict[str, deque[int]]:
    """The requests whose prompts have a block, in order."""
    uses: dict[str, deque[int]] = {}
    for number, request in enumerate(trace):
        if len(request.blocks) <= num_blocks:
            for block in request.blocks[: request.prompt_blocks]:
                uses.setdefault(block, deque()).append(number)
    return uses


class _Foreseeing:
    def __init__(self, uses: dict[str, deque[int]], num_blocks: int) -> None:
        self._uses = uses
        self._num_blocks = num_blocks
        # Of each cached block its next use.
        self._cached: dict[str, int] = {}
        # (-next use, -depth, block); entries of what was used since are passed over.
        self._farthest: list[tuple[int, int, str]] = []

    def run(self, request: TracedRequest) -> int:
        """Its hits."""
        blocks, hits = request.blocks, 0
        while hits < request.prompt_blocks and blocks[hits] in self._cached:
            hits += 1
        for block in blocks[: request.prompt_blocks]:
            self._uses[block].popleft()
        own = set(blocks)
        self._make_room(own, sum(block not in self._cached for block in blocks))
        for depth, block in enumerate(blocks):
            uses = self._uses.get(block)
            following = self._cached[block] = uses[0] if uses else _NEVER
            heappush(self._farthest, (-following, -depth, block))
        return hits

    def _make_room(self, own: set[str], count: int) -> None:
        spared = []
        while len(self._cached) + count > self._num_blocks:
            entry = heappop(self._farthest)
            following, _, block = entry
            if self._cached.get(block) != -following:
                continue
            if block in own:
                spared.append(entry)
            else:
                del self._cached[block]
        for entry in spared:
            heappush(self._farthest, entry)
