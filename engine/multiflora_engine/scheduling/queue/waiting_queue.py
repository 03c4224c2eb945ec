"""The sequences that wait, in the order in which they are served, and when requests have to be over.

By priority, then the owners in turn, then each owner's adapters in turn, then by arrival. Decides who may join; knows
nothing of blocks, slots or budgets, which decide who may start.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Items
from heapq import merge
from operator import attrgetter, itemgetter

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.scheduling.config import QueueFull
from multiflora_engine.scheduling.queue.deadlines import Deadlines
from multiflora_engine.scheduling.queue.fair_queue import FairQueue, interleave
from multiflora_engine.scheduling.queue.seats import Flow, flow_of

_ORDER = attrgetter("order")

_Owner = tuple[int, str]
"""A priority, and an owner in it: an owner's urgent requests take no turns from its others."""


class WaitingQueue:
    """Holds sequences from their arrival, or preemption, until they start or end. max_waiting: see SchedulerConfig.

    length: how many wait. deadlines: of all requests that have one, also of those that run.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._next_serial = 0
        self.length = 0
        self._preempted: list[Sequence] = []
        self._new: dict[_Owner, _AdaptersInTurn] = {}
        self._turns: FairQueue[_Owner] = FairQueue()
        self.deadlines = Deadlines()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Sequence]:
        """In the order of service, as it is when the iteration begins; sequences may start and end meanwhile.

        Sets each one's `order` as it comes to it, by which running sequences are preempted later.
        """
        return merge(tuple(self._preempted), self._new_in_order(), key=_ORDER)

    @property
    def next_serial(self) -> int:
        """For the first sequence of the next request."""
        return self._next_serial

    def check_capacity(self, owner: str) -> None:
        """A full queue refuses the owners who fill it: the others may still have their part. Raises QueueFull."""
        if self.length < self._max_waiting:
            return
        lengths = Counter({owner: 0})
        lengths.update(sequence.cache_owner for sequence in self._preempted)
        for (_, waiting_owner), adapters in self._new.items():
            lengths[waiting_owner] += len(adapters)
        if lengths[owner] >= self._max_waiting // len(lengths):
            raise QueueFull(f"{self.length} sequences are waiting")

    def add(self, sequences: Items[Sequence], live_requests: Collection[str]) -> None:
        """A request's sequences arrive. live_requests: ids of those that have not ended, this one among them."""
        owner = _owner_of(sequences[0])
        self._turns.enqueue(owner)
        self._new.setdefault(owner, _AdaptersInTurn()).add(sequences)
        self._next_serial += len(sequences)
        self.length += len(sequences)
        if sequences[0].deadline is not None:
            self.deadlines.note(sequences[0].deadline, self._next_serial, sequences[0].request_id, live_requests)

    def put_back(self, sequence: Sequence) -> None:
        """It was preempted: it keeps the place that it started from, so that it does not take a second turn."""
        insort(self._preempted, sequence, key=_ORDER)
        self.length += 1

    def start(self, sequence: Sequence) -> None:
        """It runs from now on; if for the first time, that is its owner's and its adapter's turn."""
        if sequence.epoch == 0:
            owner = _owner_of(sequence)
            self._turns.start(owner)
            self._new[owner].start(sequence)
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It waits no more."""
        self.length -= 1
        if sequence.epoch:
            self._preempted.remove(sequence)
            return
        owner = _owner_of(sequence)
        self._new[owner].remove(sequence)
        if not self._new[owner]:
            del self._new[owner]
            self._turns.cancel(owner)

    def first_besides(self, served: Collection[Flow]) -> Sequence | None:
        """Of the flows that are not served, and have not been preempted, the one whose turn comes first. Sets its
        `order`."""
        found: Sequence | None = None
        for owner, adapters in self._new.items():
            for sequence in adapters.heads():
                order = (sequence.priority, self._turns.turn(owner), sequence.serial)
                if flow_of(sequence) not in served and (found is None or order < found.order):
                    sequence.order, found = order, sequence
        return found

    def _new_in_order(self) -> Iterator[Sequence]:
        priorities: dict[int, list[tuple[int, _AdaptersInTurn]]] = {}
        for owner, adapters in self._new.items():
            priorities.setdefault(owner[0], []).append((self._turns.turn(owner), adapters))
        for priority, owners in sorted(priorities.items(), key=itemgetter(0)):
            for turn, sequence in interleave((turn, adapters.in_turn()) for turn, adapters in owners):
                sequence.order = (priority, turn, sequence.serial)
                yield sequence


def _owner_of(sequence: Sequence) -> _Owner:
    return sequence.priority, sequence.cache_owner


class _AdaptersInTurn:
    """What one owner has waiting in one priority, by adapter (None: the base model)."""

    def __init__(self) -> None:
        self._queues: dict[str | None, dict[Sequence, None]] = {}
        self._turns: FairQueue[str | None] = FairQueue()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, sequences: Items[Sequence]) -> None:
        adapter = sequences[0].adapter_digest
        self._turns.enqueue(adapter)
        self._queues.setdefault(adapter, {}).update(dict.fromkeys(sequences))

    def start(self, sequence: Sequence) -> None:
        self._turns.start(sequence.adapter_digest)

    def remove(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.adapter_digest]
        del queue[sequence]
        if not queue:
            del self._queues[sequence.adapter_digest]
            self._turns.cancel(sequence.adapter_digest)

    def heads(self) -> Iterator[Sequence]:
        """The first of each adapter."""
        return map(next, map(iter, self._queues.values()))

    def in_turn(self) -> Iterator[Sequence]:
        flows = [(self._turns.turn(adapter), tuple(queue)) for adapter, queue in self._queues.items()]
        return (sequence for _, sequence in interleave(flows))
