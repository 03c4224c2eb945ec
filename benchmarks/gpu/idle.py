"""The share of steady decode in which the GPU has nothing to do, from the profiler's record of what ran when."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from gpu.steps import Traffic, start_decoding

_STEPS = 20
_CONTEXT, _RANK = 512, 16


def idle_share(traffic: Traffic, batch: int, adapters: int) -> float:
    """Of `_STEPS` decode steps as the engine takes them, between the first kernel and the last."""
    engine = traffic.built.engine
    names = start_decoding(traffic, batch, _CONTEXT, adapters, _RANK)
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        for _ in range(_STEPS):
            engine.step()
        torch.cuda.synchronize()
    for name in names:
        engine.abort(name)
    events = record.events() or ()
    return gaps((e.time_range.start, e.time_range.end) for e in events if e.device_type.name == "CUDA")


def gaps(spans: Iterable[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end that no span covers; spans may overlap."""
    ordered = sorted(spans)
    if not ordered:
        return 0.0
    first, reached, idle = ordered[0][0], ordered[0][0], 0.0
    for start, end in ordered:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - first) if reached > first else 0.0
