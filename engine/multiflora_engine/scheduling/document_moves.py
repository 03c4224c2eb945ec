"""Prefills that take a document's KV from where it was computed alone, instead of computing it where it stands.

Shares the blocks that are read until the step that reads them is committed; computes nothing and decides no order.
"""

from __future__ import annotations

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.moved_spans import KvMove
from multiflora_engine.core.sequence import Sequence


class DocumentMoves:
    def __init__(self, pool: BlockPool, cache: PrefixCache, block_size: int) -> None:
        self._pool = pool
        self._cache = cache
        self._block_size = block_size

    def take(self, sequence: Sequence, start: int) -> KvMove | None:
        """What the step that computes the sequence's tokens behind `start` is to copy before; the sequence holds it
        until `settle`. None: the token at `start` is of no document, or what it needs is not cached."""
        span = next((span for span in sequence.moved_spans if span.start <= start < span.stop), None)
        if span is None:
            return None
        blocks = self._cache.document_blocks(sequence, span, start)
        if not blocks:
            return None
        self._pool.share(blocks, sequence.cache_owner)
        source = span.source + start - span.start
        move = KvMove(tuple(blocks), source % self._block_size, start, span.stop, start - source)
        sequence.moves.append(move)
        return move

    def settle(self, sequence: Sequence, move: KvMove) -> None:
        """The step that copies it is committed, or will not be executed."""
        sequence.moves.remove(move)
        self._pool.release(move.blocks)

    def drop(self, sequence: Sequence) -> None:
        """The sequence stops running. On a device that executes steps in order blocks may be given away that a step in
        flight reads."""
        for move in [*sequence.moves]:
            self.settle(sequence, move)


def room_before(sequence: Sequence, start: int, num_tokens: int) -> int:
    """How many of the next tokens are computed in one chunk: a document that may be taken begins the next one."""
    for span in sequence.moved_spans:
        if start < span.start < start + num_tokens:
            return span.start - start
    return num_tokens
