"""Counts of observed numbers by their size, as Prometheus' histograms have them; torch-free."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

# vLLM's, so that its dashboards read the same lines.
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PREEMPTIONS = (0, 1, 2, 3, 4, 5, 10, 20)


class Distribution(msgspec.Struct, frozen=True, array_like=True):
    """counts[i]: numbers above bounds[i - 1] and at most bounds[i]; the last one those above all bounds."""

    bounds: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    total: int = 0


class Histogram:
    """Monotonic. bounds: ascending."""

    def __init__(self, bounds: Sequence[int]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0

    def observe(self, value: int) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)
