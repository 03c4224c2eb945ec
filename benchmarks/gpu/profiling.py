"""What the GPU did in a row of decode steps, from the profiler's record: kernel by kernel, and when nothing ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from gpu.steps import Traffic, decoding

_STEPS = 20


@dataclass(frozen=True)
class Span:
    """Something that ran on the device, in microseconds of its clock."""

    name: str
    start: float
    end: float


def decode_spans(traffic: Traffic, batch: int, context: int, adapters: int, rank: int) -> list[Span]:
    """Of `_STEPS` decode steps as the engine takes them."""
    record = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    with decoding(traffic, batch, context, adapters, rank), record:
        for _ in range(_STEPS):
            traffic.built.engine.step()
        torch.cuda.synchronize()
    events = [
        event
        for event in record.events() or ()  # type: ignore[no-untyped-call]
        if event.device_type.name == "CUDA"
    ]
    return [Span(event.name, event.time_range.start, event.time_range.end) for event in events]


def gaps(spans: Iterable[Span], least: float = 0.0) -> float:
    """The share of the time from the first start to the last end that no span covers, in gaps of more than `least`
    microseconds; spans may overlap."""
    ordered = sorted(spans, key=lambda span: span.start)
    if not ordered:
        return 0.0
    first, reached, idle = ordered[0].start, ordered[0].start, 0.0
    for span in ordered:
        gap = span.start - reached
        idle += gap if gap > least else 0.0
        reached = max(reached, span.end)
    return idle / (reached - first) if reached > first else 0.0


def by_kernel(spans: Sequence[Span], steps: int = _STEPS, most: int = 30) -> list[tuple[str, float, float]]:
    """(name, launches a step, microseconds a step) of the `most` that take longest."""
    took: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        took[span.name].append(span.end - span.start)
    rows = [(name, len(times) / steps, round(sum(times) / steps, 2)) for name, times in took.items()]
    return sorted(rows, key=lambda row: -row[2])[:most]
