"""Whether a waiting sequence may start now: its adapter's slot, its grammar, blocks that a twin computes, and room.

Starts nothing and keeps no queue; what a sequence is given for good is the scheduler's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from collections.abc import Sequence as Items

from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.adapter_source import AdapterLoading, AdapterUnavailable
from multiflora_engine.core.grammar_source import GrammarError, GrammarSource
from multiflora_engine.core.sequence import Sequence, SequenceStatus
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_engine.scheduling.block_budget import Room
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.slot_scheduling import SlotTurns


class Wait(enum.Enum):
    """Why a sequence has to wait, which says whom it holds up."""

    OWN = "lacks an adapter, a grammar or a twin's blocks: nobody else waits for that"
    SHARE = "its owner has used up its share of the blocks: the owner's others wait with it"
    ROOM = "the pool has too few blocks: everybody behind waits, or long prompts would never start"


class CannotStart(Exception):
    """It never will: the request is to be failed."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.failure = EngineFailure(code, reason)


def has_begun(siblings: Items[Sequence]) -> bool:
    """Whether any of a request's sequences runs, or did before it was preempted."""
    return any(sequence.status is SequenceStatus.RUNNING or sequence.epoch for sequence in siblings)


class StartGate:
    """clock: Unix seconds. grammars: None for a model that has none."""

    def __init__(
        self,
        config: SchedulerConfig,
        cache: PrefixCache,
        room: Room,
        turns: SlotTurns,
        grammars: GrammarSource | None,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._cache = cache
        self._room = room
        self._turns = turns
        self._grammars = grammars
        self._clock = clock

    def try_start(
        self, sequence: Sequence, siblings: Items[Sequence], running: Items[Sequence], step: int
    ) -> list[int] | Wait:
        """The cached blocks that it may start on; only then it has its adapter's slot. Raises CannotStart.

        siblings: all living sequences of its request. running: those that hold blocks, in order. step: counts on.
        """
        if self._still_awaits(sequence, step):
            return Wait.OWN
        try:
            if not self._has_grammar(sequence) or not self._has_slot(sequence, siblings):
                return Wait.OWN
        except AdapterUnavailable as error:
            raise CannotStart(error.code, str(error)) from None
        except GrammarError as error:
            raise CannotStart("invalid_grammar", str(error)) from None
        hits = self._cache.hits(sequence)
        reason = self._reason_to_wait(sequence, hits, running, step)
        if reason is None:
            return hits
        self._turns.release(sequence)
        if reason in (Wait.ROOM, Wait.SHARE) and not self._will_have_room(sequence, reason, running):
            needed = self._config.blocks_for(sequence.num_tokens)
            held = "Pinned prefixes leave too few KV blocks for this request"
            raise CannotStart("kv_cache_pinned", f"{held}, which needs {needed}; unpin a prefix or send a shorter one.")
        return reason

    def _reason_to_wait(self, sequence: Sequence, hits: list[int], running: Items[Sequence], step: int) -> Wait | None:
        if self._awaits_twin(sequence, len(hits), step):
            return Wait.OWN
        if not self._room.fits(sequence, hits, running):
            return Wait.ROOM
        if not self._room.fits_share(sequence, hits, running):
            return Wait.SHARE
        return None

    def _will_have_room(self, sequence: Sequence, reason: Wait, running: Items[Sequence]) -> bool:
        """Whether somebody runs who will give blocks back: what nobody computes with is pinned, and stays."""
        return any(reason is Wait.ROOM or other.cache_owner == sequence.cache_owner for other in running)

    def _has_grammar(self, sequence: Sequence) -> bool:
        """Whether it needs none, or has it compiled. Raises GrammarError."""
        return sequence.grammar is None or self._grammars is None or self._grammars.is_ready(sequence)

    def _has_slot(self, sequence: Sequence, siblings: Items[Sequence]) -> bool:
        """Gives it its adapter's slot; how long that takes is noted. Raises AdapterUnavailable."""
        if self._turns.acquire(sequence):
            return True
        now, patience = self._clock(), self._config.adapter_timeout
        sequence.load_since = sequence.load_since or now
        if now - sequence.load_since > patience and not has_begun(siblings):
            reason = f"The adapter did not get into a slot within {patience:g} seconds"
            raise AdapterLoading(f"{reason}; try again later, or raise --max-loras.")
        return False

    def _awaits_twin(self, sequence: Sequence, num_hits: int, step: int) -> bool:
        """Whether to wait for the block after the hits because another sequence computes it; patience is per block."""
        awaited = self._cache.awaited(sequence, num_hits)
        if awaited != sequence.awaited:
            sequence.awaited, sequence.awaited_since = awaited, step
        return self._still_awaits(sequence, step)

    def _still_awaits(self, sequence: Sequence, step: int) -> bool:
        return (
            sequence.awaited is not None
            and self._cache.is_computing(sequence.awaited)
            and step - sequence.awaited_since < self._config.twin_patience
        )
