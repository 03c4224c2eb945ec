"""How work on a GPU is timed, and the floors it is held against: bandwidth and arithmetic of this card, in this run.

Knows nothing of what is measured. A row's call is captured once and replayed, so that the host is not what is timed;
rows rotate over copies of their data where the nearest cache would otherwise answer for the memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gpu.case import Case, Setting

_MOST_REPLAYS = 20
_SAMPLE_SECONDS = 0.02
"""What the replays of a sample take together, at least one of them: a few milliseconds are enough for the clock."""

_SAMPLES = 7
_PROBE_BYTES = 4 << 30
"""2 GiB read and 2 GiB written."""

_PROBE_SIZE = 8192


@dataclass(frozen=True)
class Row:
    """One thing to time. num_bytes: that must cross the memory bus at least; flops: that must be computed at least.

    call: does it once, without waiting for it; capturable in a CUDA graph.
    """

    name: str
    shape: str
    num_bytes: float
    flops: float
    call: Callable[[], object]


@dataclass(frozen=True)
class Probe:
    """A row that is still to be made: it takes memory. name: with its shape."""

    name: str
    make: Callable[[], Row]


@dataclass(frozen=True)
class Limits:
    """What the card reached in this run: bytes a second (of a large copy, both ways) and bf16 FLOP a second."""

    bandwidth: float
    arithmetic: float

    def floor(self, row: Row) -> float:
        """Seconds that no implementation can be below."""
        return max(row.num_bytes / self.bandwidth, row.flops / self.arithmetic)


def seconds(call: Callable[[], object]) -> float:
    """Median time of one call, from replays of a graph of it."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    replays = max(1, min(_MOST_REPLAYS, int(_SAMPLE_SECONDS / max(_timed(graph.replay, 1), 1e-6))))
    return statistics.median(_timed(graph.replay, replays) for _ in range(_SAMPLES))


def _timed(replay: Callable[[], None], replays: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(replays):
        replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / replays


def measure_limits() -> Limits:
    """By a copy of 2 GiB and a bf16 product of 8192 x 8192 x 8192."""
    return Limits(_PROBE_BYTES / _copying(), 2 * _PROBE_SIZE**3 / _multiplying())


def _copying() -> float:
    source = torch.empty(_PROBE_BYTES // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return seconds(lambda: target.copy_(source))


def _multiplying() -> float:
    left, right = (torch.randn(_PROBE_SIZE, _PROBE_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    return seconds(lambda: torch.mm(left, right, out=out))


def probe_cases(probes: Iterable[Probe], setting: Setting) -> Iterator[Case]:
    """A case for each; a row's data is gone when the next is made."""
    for probe in probes:
        yield Case(probe.name, partial(_measured, probe, setting))


def _measured(probe: Probe, setting: Setting) -> dict[str, Any]:
    """Microseconds of the row and of its floor, and the share of the card that it uses."""
    row = probe.make()
    took, floor = seconds(row.call), setting.limits.floor(row)
    return {
        "shape": row.shape,
        "us": round(took * 1e6, 2),
        "floor_us": round(floor * 1e6, 2),
        "share": round(floor / took, 3),
    }
