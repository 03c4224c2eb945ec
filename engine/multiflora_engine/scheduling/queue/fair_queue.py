"""Turns among flows, so that a flood in one flow does not delay another: owners take turns, and an owner's adapters.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with sequences as the unit. Knows neither queues nor steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Generic, TypeVar

from multiflora_engine.core.sequence import Sequence

Flow = TypeVar("Flow", bound=Hashable)


class FairQueue(Generic[Flow]):
    """Turns are numbers, of which the smaller is served first; a flow that waits has the turn of its next sequence."""

    def __init__(self) -> None:
        self._now = 0
        self._turns: dict[Flow, int] = {}

    def enqueue(self, flow: Flow) -> None:
        """The flow has something waiting. If it had nothing before, it comes now: past idleness earns no credit."""
        self._turns.setdefault(flow, self._now)

    def turn(self, flow: Flow) -> int:
        return self._turns[flow]

    def start(self, flow: Flow) -> None:
        """A sequence of the flow starts: its next one is a turn later, and flows that come now do not overtake it."""
        self._now = max(self._now, self._turns[flow])
        self._turns[flow] += 1

    def cancel(self, flow: Flow) -> None:
        """The flow has nothing waiting any more. What was taken back before it started never cost it a turn."""
        del self._turns[flow]


def interleave(flows: Iterable[tuple[int, Iterable[Sequence]]]) -> Iterator[tuple[int, Sequence]]:
    """(turn, sequence) of all flows by turn, then by arrival, as if each started in its turn.

    flows: (turn of its first sequence, its sequences in order) of each.
    """
    heap = []
    for turn, sequences in flows:
        rest = iter(sequences)
        for first in rest:
            heap.append((turn, first.serial, first, rest))
            break
    heapify(heap)
    while heap:
        turn, _, sequence, rest = heap[0]
        yield turn, sequence
        for following in rest:
            heapreplace(heap, (turn + 1, following.serial, following, rest))
            break
        else:
            heappop(heap)
