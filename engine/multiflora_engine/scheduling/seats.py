"""Who leaves its seat when all are taken and an adapter waits of which nothing runs: else a flood of another adapter
would keep it waiting for as long as its answers are long. Starts and stops nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from multiflora_engine.core.sequence import Sequence

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
