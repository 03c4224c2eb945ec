"""What a flood of one adapter leaves to the others. Starts and stops nothing itself.

All seats are taken and an adapter waits of which nothing runs: a sequence of the flood leaves its seat, else the other
would wait for as long as the flood's answers are long. Few run beside a flood: they may have steps of their own, else
each of their tokens would take as long as one of all the flood's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from multiflora_engine.core.sequence import Sequence

# A flood has so many times as many seats as all others together that get steps of their own.
_FLOOD = 8

Flow = tuple[str, str | None]
"""An owner, and one of its adapters (None: the base model)."""


def flow_of(sequence: Sequence) -> Flow:
    return sequence.cache_owner, sequence.adapter_digest


def leaves_for(sequence: Sequence, running: Iterable[Sequence]) -> Sequence | None:
    """The last in order of the flow that has most seats, of those that had to leave least often. None where each flow
    has one seat, or where those with several are more urgent than the sequence."""
    flows: dict[Flow, list[Sequence]] = {}
    for other in running:
        if other.priority >= sequence.priority:
            flows.setdefault(flow_of(other), []).append(other)
    largest = max(flows.values(), key=len, default=[])
    return max(largest, key=lambda other: (-other.epoch, other.order)) if len(largest) > 1 else None


def beside_a_flood(running: Collection[Sequence]) -> frozenset[Flow]:
    """The flows that are few beside another; those that are less urgent than it are not among them."""
    counts = Counter(map(flow_of, running))
    flood, most = max(counts.items(), key=lambda item: item[1], default=(("", None), 0))
    if not 0 < (len(running) - most) * _FLOOD <= most:
        return frozenset()
    urgency = min(sequence.priority for sequence in running if flow_of(sequence) == flood)
    later = {flow_of(sequence) for sequence in running if sequence.priority > urgency}
    return frozenset(counts.keys() - {flood} - later)
