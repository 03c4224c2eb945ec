"""Whose turn it is when more adapters are wanted than fit: uses of slots by running sequences, and fair draining.

Knows sequences, digests and the AdapterSource; not blocks, budgets or slots' sizes.

Requests of resident adapters pass a request that waits for a slot, which keeps batches full but could keep it waiting
for ever. So once it was refused for `patience` steps, one resident adapter is drained for it: sequences younger than
the starving one do not start on that adapter, its running ones finish, it becomes idle, and the starving one takes its
place. If that was not room enough (memory follows rank), as many adapters again are drained, and so on. Each starving
adapter has victims of its own, so that the longest wait is patience plus the time in which an adapter drains.
Adapters that administration wants in a slot take part as if they were the first in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from multiflora_adapters.kv_reach import BASE_KV, KvReach
from multiflora_engine.core.adapter_source import AdapterSource
from multiflora_engine.core.sequence import Sequence, SequenceStatus


@dataclass(slots=True)
class _Refusal:
    """An adapter that found no room. sequence: the first in order that it keeps waiting; None: only administration
    waits. victims: drained for it."""

    sequence: Sequence | None
    since: int
    victims: list[str] = field(default_factory=list)


class SlotScheduler:
    """Acquires and releases adapters for sequences; the base model needs none of it.

    patience: steps. max_refused: once so many adapters were refused in a step, further ones that are in no slot are not
    even asked for, so that a long queue does not make the host memory's cache of adapters thrash.
    """

    def __init__(self, adapters: AdapterSource, patience: int, max_refused: int) -> None:
        self._adapters = adapters
        self._patience = patience
        self._max_refused = max_refused
        self._step = 0
        self._users: Counter[str] = Counter()
        # Adapters that found no room, by digest; without any, nothing is drained.
        self.refusals: dict[str, _Refusal] = {}
        self._closed: dict[str, Sequence | None] = {}
        self._refused_now: set[str] = set()

    def prefetch(self, waiting: Iterable[Sequence]) -> None:
        """The adapters of these sequences are brought to host memory, the first's first."""
        for sequence in waiting:
            if sequence.adapter_digest is not None:
                self._adapters.want(sequence.adapter_digest)

    def begin_step(self, running: list[Sequence]) -> None:
        """Forgets refusals for which no sequence waits any more and decides what is drained in this step.

        May be left out in a step in which no sequence waits and the slots are idle.
        """
        self._step += 1
        self._refused_now.clear()
        pending_placements = self._adapters.pending_placements()
        for digest in pending_placements:
            self.refusals.setdefault(digest, _Refusal(None, self._step))
        for digest, refusal in list(self.refusals.items()):
            sequence = refusal.sequence
            # It was placed or given up, or its sequence runs or has ended: it starves no more.
            if digest not in pending_placements if sequence is None else sequence.status is not SequenceStatus.WAITING:
                del self.refusals[digest]
            elif self._step - refusal.since >= self._patience:
                self._drain_for(refusal, running)
        self._close_victims()

    def acquire(self, sequence: Sequence) -> bool:
        """Gives the sequence its adapter's slot for as long as it runs. False: it has to wait, others may pass.

        Raises AdapterUnavailable.
        """
        digest = sequence.adapter_digest
        if digest is None:
            return True
        if digest in self._refused_now or self._is_closed(digest, sequence) or self._is_too_far_back(digest):
            return False
        slot = self._adapters.acquire(digest)
        if slot is None:
            self._note_refusal(digest, sequence)
            return False
        sequence.adapter_slot = slot
        self._users[digest] += 1
        if self.refusals.pop(digest, None):
            # It has its room, so what was drained for it may be used again by sequences of this very step.
            self._close_victims()
        return True

    def kv_reach(self, sequence: Sequence) -> KvReach:
        """What the KV of a sequence depends on that has its slot."""
        digest = sequence.adapter_digest
        return BASE_KV if digest is None else self._adapters.kv_reach(digest)

    def release(self, sequence: Sequence) -> None:
        """Ends the use that `acquire` began."""
        digest = sequence.adapter_digest
        if digest is None:
            return
        self._adapters.release(digest)
        sequence.adapter_slot = None
        self._users[digest] -= 1
        if not self._users[digest]:
            del self._users[digest]

    def _is_closed(self, digest: str, sequence: Sequence) -> bool:
        if digest not in self._closed:
            return False
        starving = self._closed[digest]
        # None: an operator waits for it, and counts as first in order.
        return starving is None or sequence.order > starving.order

    def _is_too_far_back(self, digest: str) -> bool:
        return len(self._refused_now) >= self._max_refused and self._adapters.state(digest) != "slot"

    def _note_refusal(self, digest: str, sequence: Sequence) -> None:
        self._refused_now.add(digest)
        # On disk or on its way it lacks time, not room, and draining would not help.
        if self._adapters.state(digest) == "cpu":
            self.refusals.setdefault(digest, _Refusal(sequence, self._step))

    def _drain_for(self, refusal: _Refusal, running: list[Sequence]) -> None:
        # More victims only once those of before are idle and still leave too little room.
        if any(victim in self._users for victim in refusal.victims):
            return
        victims = self._next_victims(max(1, len(refusal.victims)), running)
        if victims:
            refusal.victims += victims
        else:
            # Everything drainable was drained in vain (the rest is pinned, say): let the others have their slots back.
            refusal.victims.clear()
            refusal.since = self._step

    def _next_victims(self, count: int, running: list[Sequence]) -> list[str]:
        """Adapters in use that are not drained yet, those first whose running sequences can end soonest."""
        taken = {victim for refusal in self.refusals.values() for victim in refusal.victims}
        ends: dict[str, int] = {}
        for sequence in running:
            digest = sequence.adapter_digest
            if digest is not None and digest not in taken:
                # An adapter is idle when the last of its sequences has ended.
                left = (sequence.params.max_tokens or 0) - len(sequence.output_token_ids)
                ends[digest] = max(ends.get(digest, 0), left)
        evictable = [digest for digest in ends if not self._adapters.is_pinned(digest)]
        return sorted(evictable, key=lambda digest: ends[digest])[:count]

    def _close_victims(self) -> None:
        self._closed = {victim: refusal.sequence for refusal in self.refusals.values() for victim in refusal.victims}
