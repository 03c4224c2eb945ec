"""Whether a waiting sequence may start now: its adapter's slot, its grammar, pending blocks of its prefix, free blocks.

Starts nothing and keeps no queue; what a sequence is given for good is the scheduler's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from collections.abc import Sequence as Items

from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.adapter_source import AdapterLoading, AdapterUnavailable
from multiflora_engine.core.grammar_source import GrammarError, GrammarSource
from multiflora_engine.core.moved_spans import before_activation
from multiflora_engine.core.sequence import Sequence, SequenceStatus
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_engine.scheduling.block_budget import BlockBudget
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.prefix_loads import PrefixLoads
from multiflora_engine.scheduling.slot_scheduling import SlotScheduler

_NOT_INVOKED = (
    "The prompt does not hold the tokens {} that invoke this adapter (alora_invocation_tokens); add their text, or "
    "start the server with --alora-fallback base."
)


class Blocked(enum.Enum):
    """Why a sequence has to wait, which says whom it holds up."""

    DEPENDENCY = "it lacks an adapter, a grammar or blocks that are loaded or another computes: it alone waits"
    QUOTA = "its owner has used up its share of the blocks: the owner's other sequences wait with it"
    CAPACITY = "the pool has too few blocks: all behind it wait, or long prompts would never start"


class CannotStart(Exception):
    """It never will: the request is to be failed."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.failure = EngineFailure(code, reason)


def has_begun(siblings: Items[Sequence]) -> bool:
    """Whether any of a request's sequences runs, or did before it was preempted."""
    return any(sequence.status is SequenceStatus.RUNNING or sequence.epoch for sequence in siblings)


class AdmissionPolicy:
    """clock: Unix seconds. grammars: None for a model that has none. loads: None where no copies are kept."""

    def __init__(
        self,
        config: SchedulerConfig,
        cache: PrefixCache,
        budget: BlockBudget,
        slots: SlotScheduler,
        grammars: GrammarSource | None,
        clock: Callable[[], float],
        loads: PrefixLoads | None = None,
    ) -> None:
        self._config = config
        self._cache = cache
        self._budget = budget
        self._slots = slots
        self._grammars = grammars
        self._clock = clock
        self._loads = loads

    def admit(
        self, sequence: Sequence, siblings: Items[Sequence], running: Items[Sequence], step: int
    ) -> list[int] | Blocked:
        """The cached blocks that it may start on; only then it has its adapter's slot. Raises CannotStart.

        siblings: all living sequences of its request. running: those that hold blocks, in order. step: counts on.
        """
        if self._still_waits_for_prefix(sequence, step):
            return Blocked.DEPENDENCY
        if self._loads is not None and self._loads.has_to_wait(sequence):
            return Blocked.DEPENDENCY
        try:
            if not self._has_grammar(sequence) or not self._has_slot(sequence, siblings):
                return Blocked.DEPENDENCY
        except AdapterUnavailable as error:
            raise CannotStart(error.code, str(error)) from None
        except GrammarError as error:
            raise CannotStart("invalid_grammar", str(error)) from None
        if not sequence.root_hash:
            self._identify(sequence, siblings)
        hits = self._cache.hits(sequence)
        reason = self._reason_to_wait(sequence, hits, running, step)
        if reason is None:
            return hits
        self._slots.release(sequence)
        if reason in (Blocked.CAPACITY, Blocked.QUOTA) and not self._will_have_room(sequence, reason, running):
            needed = self._config.blocks_for(sequence.num_tokens)
            held = "Pinned prefixes leave too few KV blocks for this request"
            raise CannotStart("kv_cache_pinned", f"{held}, which needs {needed}; unpin a prefix or send a shorter one.")
        return reason

    def _identify(self, sequence: Sequence, siblings: Items[Sequence]) -> None:
        """Which KV the request's sequences share: it depends on their adapter, which is only known once it was read.
        Raises CannotStart where the prompt does not invoke it."""
        reach = self._slots.kv_reach(sequence)
        root, activation, first = self._cache.identity(sequence, reach)
        if first is None and not sequence.is_prefix and self._config.alora_fallback != "base":
            self._slots.release(sequence)
            raise CannotStart("adapter_not_invoked", _NOT_INVOKED.format(list(reach.invocation)))
        for sibling in siblings:
            sibling.kv_digest = None if first is None else reach.digest
            sibling.root_hash, sibling.activation, sibling.first_adapted = root, activation, first
            sibling.moved_spans = before_activation(sibling.moved_spans, activation)
        hashes = self._cache.new_hashes(sequence)
        for sibling in siblings:
            sibling.block_hashes = list(hashes)

    def _reason_to_wait(
        self, sequence: Sequence, hits: list[int], running: Items[Sequence], step: int
    ) -> Blocked | None:
        if self._waits_for_prefix(sequence, len(hits), step):
            return Blocked.DEPENDENCY
        if not self._budget.fits(sequence, hits, running):
            return Blocked.CAPACITY
        if not self._budget.fits_share(sequence, hits, running):
            return Blocked.QUOTA
        if self._loads is not None and self._loads.begin(sequence, hits):
            return Blocked.DEPENDENCY
        return None

    def _will_have_room(self, sequence: Sequence, reason: Blocked, running: Items[Sequence]) -> bool:
        """Whether a sequence runs, or a load, that will give blocks back: what else is held is pinned, and stays."""
        if self._loads is not None and self._loads.is_busy:
            return True
        return any(reason is Blocked.CAPACITY or other.cache_owner == sequence.cache_owner for other in running)

    def _has_grammar(self, sequence: Sequence) -> bool:
        """Whether it needs none, or has it compiled. Raises GrammarError."""
        return sequence.grammar is None or self._grammars is None or self._grammars.is_ready(sequence)

    def _has_slot(self, sequence: Sequence, siblings: Items[Sequence]) -> bool:
        """Gives it its adapter's slot; how long that takes is noted. Raises AdapterUnavailable."""
        if self._slots.acquire(sequence):
            return True
        now, patience = self._clock(), self._config.adapter_timeout
        sequence.load_since = sequence.load_since or now
        if now - sequence.load_since > patience and not has_begun(siblings):
            reason = f"The adapter did not get into a slot within {patience:g} seconds"
            raise AdapterLoading(f"{reason}; try again later, or raise --max-loras.")
        return False

    def _waits_for_prefix(self, sequence: Sequence, num_hits: int, step: int) -> bool:
        """Whether to wait for the block after the hits because another sequence computes it; patience is per block."""
        pending_block = self._cache.pending_block(sequence, num_hits)
        if pending_block != sequence.pending_block:
            sequence.pending_block, sequence.pending_block_since = pending_block, step
        return self._still_waits_for_prefix(sequence, step)

    def _still_waits_for_prefix(self, sequence: Sequence, step: int) -> bool:
        return (
            sequence.pending_block is not None
            and self._cache.is_computing(sequence.pending_block)
            and step - sequence.pending_block_since < self._config.prefix_wait_steps
        )
