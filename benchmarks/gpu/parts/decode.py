"""Decode steps of Llama 3.1 8B beside their floors, and where their time goes, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu.case import Case, Setting
from gpu.profiling import by_kernel, decode_spans, gaps
from gpu.steps import Traffic, decode_costs, decode_seconds, floor_seconds, itemsize, micro, traffic_of

LOADS = ((1, 0), (32, 0), (64, 0), (64, 64), (8, 8), (1, 1), (128, 0))
"""(batch, adapters)."""

_CONTEXT, _RANK = 512, 16
_LONG_GAP = 5.0
"""Microseconds: two kernels that follow each other in a graph are nearer."""


def cases(setting: Setting) -> Iterator[Case]:
    traffic = traffic_of(setting, max_num_seqs=128, max_loras=64, max_lora_rank=_RANK)
    for batch, adapters in LOADS:
        yield Case(f"batch {batch}, {adapters} adapters", partial(_step, traffic, setting, batch, adapters), 140)
    for batch, adapters in LOADS:
        yield Case(f"kernels of batch {batch}, {adapters} adapters", partial(_kernels, traffic, batch, adapters))


def _step(traffic: Callable[[], Traffic], setting: Setting, batch: int, adapters: int) -> dict[str, Any]:
    model, size = traffic().built.model, itemsize(traffic())
    took = decode_seconds(traffic(), batch, _CONTEXT, adapters, _RANK)
    floor = floor_seconds(decode_costs(model, batch, _CONTEXT, adapters, _RANK, size), setting.limits)
    return {"us": micro(took), "floor_us": micro(floor), "share": round(floor / took, 3)}


def _kernels(traffic: Callable[[], Traffic], batch: int, adapters: int) -> dict[str, Any]:
    """Shares of the time in which the card had nothing to do, and the kernels that take longest."""
    spans = decode_spans(traffic(), batch, _CONTEXT, adapters, _RANK)
    return {
        "idle": round(gaps(spans), 4),
        "idle_in_long_gaps": round(gaps(spans, _LONG_GAP), 4),
        "kernels": [{"name": name, "launches": launches, "us": took} for name, launches, took in by_kernel(spans)],
    }
