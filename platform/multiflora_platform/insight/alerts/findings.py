"""What is wrong with a running server, each with the next step: judged of what insight knows, by thresholds.

A condition has to hold for a while before it is found, so that one slow second alarms no operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from multiflora_platform.engine import ReplicaHandle
from multiflora_platform.insight.views.activity import Point
from multiflora_platform.insight.views.misses import DriftItem
from multiflora_platform.settings import Settings

_ERROR_SECONDS, _THRASHING_SECONDS = 60, 30
_HOUR, _EDGE = 60, 10
"""Minutes between which memory is compared, and of each end of them."""
_DRIFTING_SHARE, _DRIFTING_PROMPTS = 0.5, 20
_MIB = 1 << 20


class Finding(NamedTuple):
    """An alert before it is known since when it holds."""

    id: str
    severity: str
    title: str
    detail: str
    next_step: str
    link: str


@dataclass(frozen=True)
class Thresholds:
    """As the settings of the same names, which describe them."""

    waiting: int
    waiting_seconds: int
    error_rate: float
    cache_thrash: float
    memory_growth: float

    @classmethod
    def of(cls, settings: Settings) -> Thresholds:
        return cls(
            settings.alert_waiting,
            settings.alert_waiting_seconds,
            settings.alert_error_rate,
            settings.alert_cache_thrash,
            settings.alert_memory_growth,
        )


def engine_findings(replicas: Sequence[ReplicaHandle]) -> Iterator[Finding]:
    """Of each that serves no request, but for those that start or are told to end."""
    for replica in replicas:
        if replica.state in ("restarting", "failed"):
            name = "The engine" if len(replicas) == 1 else f"The engine of replica {replica.id}"
            yield Finding(
                "engine" if len(replicas) == 1 else f"engine {replica.id}", "error", f"{name} is not serving",
                f"It is {replica.state}; restarts so far: {replica.restarts}.",
                "Look at the server's log for the engine's last words.", "/ui/replicas",
            )  # fmt: skip


def adapter_findings(failures: dict[str, str]) -> Iterator[Finding]:
    """failures: adapter name -> why it could not be loaded."""
    for name, reason in failures.items():
        yield Finding(
            f"adapter {name}", "error", f"The adapter {name} cannot be loaded", reason,
            "Register it again, or roll its alias back.", f"/ui/adapters/{name}",
        )  # fmt: skip


def drift_findings(items: Iterable[DriftItem]) -> Iterator[Finding]:
    """Of most of a tenant's prompts for a model."""
    for item in items:
        if item.share >= _DRIFTING_SHARE and item.prompts >= _DRIFTING_PROMPTS:
            yield Finding(
                f"drift {item.tenant or ''} {item.model} {item.message} {item.kind}", "warning",
                f"Prompts of {item.tenant or 'admins'} for {item.model} miss the cache at one place", item.advice,
                f"Change what stands there: {item.example}", "/ui/cache",
            )  # fmt: skip


def traffic_findings(points: Sequence[Point], thresholds: Thresholds) -> Iterator[Finding]:
    """points: of the last minutes, one a second, oldest first."""
    yield from _waiting(points[-thresholds.waiting_seconds :], thresholds)
    yield from _thrashing(points[-2 * _THRASHING_SECONDS :], thresholds.cache_thrash)
    last = points[-_ERROR_SECONDS:]
    errors, requests = sum(point.errors for point in last), sum(point.requests for point in last)
    if errors and errors >= thresholds.error_rate * requests:
        yield Finding(
            "errors", "error", "Requests fail", f"{errors} of {requests} requests of the last minute ended in a "
            "server's error.", "Open the failed requests.", "/ui/requests",
        )  # fmt: skip


def _waiting(points: Sequence[Point], thresholds: Thresholds) -> Iterator[Finding]:
    seconds = thresholds.waiting_seconds
    if len(points) == seconds and all(point.waiting > thresholds.waiting for point in points):
        yield Finding(
            "waiting", "warning", "Requests wait", f"{points[-1].waiting} sequences wait; for {seconds} seconds there "
            f"were more than {thresholds.waiting}.", "Lower a tenant's limits, or add a replica.", "/ui/requests",
        )  # fmt: skip


def _thrashing(points: Sequence[Point], threshold: float) -> Iterator[Finding]:
    """In both halves of the last minute, for one long prompt that comes back after hours is no thrashing."""
    halves = (points[:_THRASHING_SECONDS], points[_THRASHING_SECONDS:])
    shares = [_share_computed_again(half) for half in halves if len(half) == _THRASHING_SECONDS]
    if len(shares) == len(halves) and min(shares) > 0 and min(shares) >= threshold:
        yield Finding(
            "cache", "warning", "The prefix cache is thrashing", f"{shares[-1]:.0%} of the prompts' tokens were "
            "computed again, because their KV blocks had been evicted.",
            "Pin what matters, or raise --kv-cache-memory.", "/ui/cache",
        )  # fmt: skip


def _share_computed_again(points: Sequence[Point]) -> float:
    tokens = sum(point.prompt_tokens_per_second for point in points)
    return sum(point.evicted_tokens_per_second for point in points) / tokens if tokens else 0.0


def memory_findings(minutes: Sequence[Point], thresholds: Thresholds) -> Iterator[Finding]:
    """minutes: oldest first. What caches took within their bounds is no growth; the ends are ten minutes each, so that
    neither a burst nor an engine that was away for a moment decides."""
    hour = minutes[-_HOUR:]
    if len(hour) < _HOUR:
        return
    before, now = hour[:_EDGE], hour[-_EDGE:]
    had, has = max(point.host_bytes for point in before), min(point.host_bytes for point in now)
    cached = max(point.cache_bytes for point in hour) - min(point.cache_bytes for point in before)
    if (grown := has - had - cached) > thresholds.memory_growth * had:
        yield Finding(
            "memory", "warning", "Memory grows", f"Gateway and engines have {grown // _MIB} MiB more than an hour ago, "
            f"when they had {had // _MIB} MiB, besides what caches took.",
            "Make a report with `multiflora profile --kind memory`.", "/ui/",
        )  # fmt: skip
