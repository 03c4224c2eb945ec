"""How many engines a group on Ray wants: the same rule as on one host, from what its engines tell of themselves.

Knows no Ray: its context is whatever has these attributes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from multiflora_platform.fleet.scaling import Load, Scaler, Targets

Told = Mapping[str, float]
"""Fields of Load by name, of one engine."""


class Measured(Protocol):
    timestamp: float
    value: float


class ScalingContext(Protocol):
    """ray.serve.config.AutoscalingContext, as far as it is needed. raw_metrics: by field and replica, over time."""

    current_num_replicas: int
    target_num_replicas: int
    running_replicas: Sequence[Any]
    raw_metrics: Mapping[str, Mapping[Any, Sequence[Measured]]] | None


class LoadPolicy:
    """A custom policy of Ray Serve's. clock: seconds."""

    def __init__(
        self, least: int, most: int, up_after: float, down_after: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scaler = Scaler(least, most, Targets(up_after=up_after, down_after=down_after))
        self._clock = clock

    def __call__(self, context: ScalingContext) -> tuple[int, dict[str, Any]]:
        """The number that there should be, and nothing for Serve to keep."""
        told = _told_last(context)
        if context.current_num_replicas != context.target_num_replicas or told is None:
            return context.target_num_replicas, {}
        return self._scaler.decide(load_of(told), self._clock()), {}


def load_of(told: Sequence[Told]) -> Load:
    """What is hot on several engines is counted for each: rather one engine too many."""
    return Load(
        replicas=len(told),
        queue_seconds=_mean(one["queue_seconds"] for one in told),
        kv_use=_mean(one["kv_use"] for one in told),
        seats=_mean(one["seats"] for one in told),
        hot_blocks=int(sum(one["hot_blocks"] for one in told)),
        blocks=int(min(one["blocks"] for one in told)),
    )


def _told_last(context: ScalingContext) -> Sequence[Told] | None:
    """By each engine that runs; None while one of them has told nothing."""
    metrics = context.raw_metrics or {}
    found: list[Told] = []
    for replica in context.running_replicas:
        points = {name: metrics.get(name, {}).get(replica) for name in Load._fields if name != "replicas"}
        if not all(points.values()):
            return None
        found.append(
            {name: max(series, key=lambda point: point.timestamp).value for name, series in points.items() if series}
        )
    return found or None


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
