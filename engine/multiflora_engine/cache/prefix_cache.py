"""Which KV a sequence can share: hashes of its blocks, the blocks that hold them, and who is computing them now.

Reads sequences and never writes them; owns no blocks. A block's hash covers everything its KV depends on: base model,
what of the adapter reaches it, salt and all tokens up to its end (hash chain after vLLM's automatic prefix caching).
Equal hashes mean equal content, so nothing here is ever invalidated. Behind a document that may be taken from elsewhere
content is approximate: blocks tell that by their hash, and either of what two such prompts computed will do.
"""

from __future__ import annotations

from array import array
from itertools import islice, takewhile
from typing import NamedTuple

from multiflora_adapters.kv_reach import Activation, KvReach
from multiflora_engine.cache.block_hashes import hashes_behind, identity
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import CacheIndex
from multiflora_engine.cache.worth import COLD, NEW
from multiflora_engine.core.block_tiers import BlockChain, BlockTiers
from multiflora_engine.core.moved_spans import MovedSpan
from multiflora_engine.core.sequence import Sequence


class CacheStart(NamedTuple):
    """miss_reason: why the block behind the hits was not found (CacheIndex). uses: with which the sequence's own blocks
    are published (worth.py). num_evicted: blocks behind the hits, one after another, that were cached and evicted, of
    those that it could have started on."""

    miss_reason: str
    uses: int
    num_evicted: int


class PrefixCache:
    """Lookup and publication over a BlockPool, and the register of blocks that running sequences will compute.

    When disabled, sequences get no hashes, and everything else follows: no hits, nothing announced, nothing published.
    """

    def __init__(
        self,
        pool: BlockPool,
        index: CacheIndex,
        base_digest: str,
        block_size: int,
        enabled: bool = True,
        tiers: BlockTiers | None = None,
    ) -> None:
        """tiers: keep copies of what is published; None: nothing does."""
        self._pool = pool
        self._index = index
        self._base_digest = base_digest
        self._block_size = block_size
        self._enabled = enabled
        self._tiers = tiers
        self._computing: dict[bytes, Sequence] = {}

    def identity(self, sequence: Sequence, reach: KvReach) -> tuple[bytes, Activation | None, int | None]:
        """What its blocks are known by (see block_hashes). reach: of its adapter."""
        asked = sequence.prompt_token_ids[: sequence.num_asked_tokens]
        return identity(self._base_digest, reach, sequence.cache_salt, asked)

    def new_hashes(self, sequence: Sequence) -> list[bytes]:
        """Hashes of the full blocks that `sequence.block_hashes` does not cover yet."""
        if not self._enabled:
            return []
        size, known = self._block_size, sequence.block_hashes
        parent = known[-1] if known else sequence.root_hash
        behind = sequence.token_ids[len(known) * size :]
        return hashes_behind(parent, behind, size, len(known), sequence.activation, sequence.moved_spans)

    def hits(self, sequence: Sequence, first: int = 0) -> list[int]:
        """Blocks that hold the longest cached prefix short of the last token, which is always computed.

        first: the number of the block with which they begin; the sequence has those before it.
        """
        return self._pool.leading(islice(sequence.block_hashes, first, self._num_readable(sequence)))

    def document_blocks(self, sequence: Sequence, span: MovedSpan, start: int) -> list[int]:
        """Blocks that hold the KV of the span's tokens from `start` on, behind the prompt's beginning alone; none where
        one of them is not cached."""
        if not self._enabled:
            return []
        size, ids = self._block_size, sequence.prompt_token_ids
        common = span.beginning // size
        parent = sequence.block_hashes[common - 1] if common else sequence.root_hash
        alone = ids[common * size : span.beginning] + ids[span.document : span.stop]
        hashes = hashes_behind(parent, alone, size)
        blocks = [self._pool.find(hash) for hash in hashes[(span.source + start - span.start) // size - common :]]
        found = [block_id for block_id in blocks if block_id is not None]
        return found if len(found) == len(blocks) else []

    def pending_block(self, sequence: Sequence, num_hits: int) -> bytes | None:
        """The hash of the block after the hits, if a running sequence is about to compute it."""
        readable = self._readable_hashes(sequence)
        if num_hits < len(readable) and readable[num_hits] in self._computing:
            return readable[num_hits]
        return None

    def is_computing(self, hash: bytes) -> bool:
        return hash in self._computing

    def announce(self, sequence: Sequence) -> None:
        """The sequence runs from now on and will compute its known blocks from num_computed_tokens on."""
        for hash in self._uncomputed_hashes(sequence):
            # Of several sequences that compute the same block, the others wait for the first.
            self._computing.setdefault(hash, sequence)

    def record_start(self, sequence: Sequence, num_hits: int) -> CacheStart:
        """Counts the hits that a sequence starts on, the first blocks of its table."""
        hits = sequence.block_table[:num_hits]
        self._index.hit(hits)
        missed = sequence.block_hashes[num_hits:]
        is_cached = bool(missed) and self._pool.find(missed[0]) is not None
        was_evicted = bool(missed) and missed[0] in self._pool.evicted
        reason = self._index.why_missed(sequence, num_hits, is_cached, was_evicted)
        # What is computed in any case costs no more for having been evicted.
        readable = self.missed(sequence, num_hits)
        num_evicted = sum(1 for _ in takewhile(self._pool.evicted.__contains__, readable))
        if not _is_use(sequence):
            return CacheStart(reason, COLD if sequence.is_background else NEW, num_evicted)
        self._keep_hits(sequence, 0, hits)
        return CacheStart(reason, self._pool.begin(hits, missed), num_evicted)

    def record_late_hits(self, sequence: Sequence, first: int, num_hits: int) -> None:
        """Counts hits of a sequence that runs already: num_hits blocks of its table, from number `first` on."""
        hits = sequence.block_table[first : first + num_hits]
        self._computed(sequence, sequence.block_hashes[first : first + num_hits])
        self._index.hit(hits)
        if _is_use(sequence):
            self._keep_hits(sequence, first, hits)
            self._pool.use(hits)

    def retract(self, sequence: Sequence) -> None:
        """The sequence stops running: no sequence may wait for what it has not computed."""
        self._computed(sequence, self._uncomputed_hashes(sequence))

    def publish(self, sequence: Sequence, first: int, stop: int) -> list[int]:
        """Blocks [first, stop) of the sequence's table are computed and full; their hashes must be known.

        Returns the numbers of those that were not published before, by whatever sequence.
        """
        if not self._enabled:
            return []
        hashes = sequence.block_hashes[first:stop]
        places = self._pool.publish_all(
            sequence.block_table[first:stop], hashes, sequence.cache_owner, sequence.block_uses
        )
        self._computed(sequence, hashes)
        new = [first + place for place in places]
        if new:
            self._index.published(sequence, new, sequence.block_table)
            if self._tiers is not None:
                block_ids = [sequence.block_table[number] for number in new]
                self._tiers.keep(_chain(sequence), new, block_ids, are_hits=False)
        return new

    def missed(self, sequence: Sequence, num_hits: int) -> list[bytes]:
        """Hashes of the blocks that the sequence could start on, behind its hits."""
        return self._readable_hashes(sequence)[num_hits:]

    def publish_loaded(self, sequence: Sequence, first: int, stop: int, table: array[int]) -> None:
        """The table's blocks [first, stop) were filled with what the sequence, which waits, can start on."""
        uses = COLD if sequence.is_background else NEW
        hashes = sequence.block_hashes[first:stop]
        places = self._pool.publish_all(table[first:stop], hashes, sequence.cache_owner, uses)
        if places:
            self._index.published(sequence, [first + place for place in places], table)

    def _keep_hits(self, sequence: Sequence, first: int, hits: array[int]) -> None:
        if self._tiers is not None and hits:
            self._tiers.keep(_chain(sequence), range(first, first + len(hits)), hits, are_hits=True)

    def _computed(self, sequence: Sequence, hashes: list[bytes]) -> None:
        """The sequence is not about to compute these blocks any more."""
        computing = self._computing
        if computing:
            for hash in hashes:
                if computing.get(hash) is sequence:
                    del computing[hash]

    def _readable_hashes(self, sequence: Sequence) -> list[bytes]:
        return sequence.block_hashes[: self._num_readable(sequence)]

    def _num_readable(self, sequence: Sequence) -> int:
        """What wants something of every prompt position reads nothing."""
        if sequence.reads_whole_prompt:
            return 0
        # One token is computed even where all are cached: the next one is sampled from its logits.
        return min(len(sequence.block_hashes), (sequence.num_tokens - 1) // self._block_size)

    def _uncomputed_hashes(self, sequence: Sequence) -> list[bytes]:
        return sequence.block_hashes[sequence.num_computed_tokens // self._block_size :]


def _is_use(sequence: Sequence) -> bool:
    """Whether a client waits for it, and it is a use of its own: a request's other sequences go on with what the first
    one computes."""
    return not sequence.is_background and sequence.index == 0


def _chain(sequence: Sequence) -> BlockChain:
    return BlockChain(
        hashes=sequence.block_hashes,
        root=sequence.root_hash,
        owner=sequence.cache_owner,
        share=sequence.cache_share,
        uses=COLD if sequence.is_background else NEW,
    )
