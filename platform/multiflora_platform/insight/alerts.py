"""What an operator should look at now, each with the next step. Judged anew at each look; remembers since when.

A condition has to hold for a while before it is shown, so that one slow second alarms no operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from multiflora_platform.insight.views import Alert, DriftItem, Point

_QUEUE_SECONDS = 30
_THRASHING_SECONDS = 60
_HIT_RATE_LOST = 0.5
_FULL = 0.98
_ERROR_SECONDS, _ERROR_SHARE = 60, 0.05
_DRIFTING_SHARE, _DRIFTING_PROMPTS = 0.5, 20


class Finding(NamedTuple):
    """An alert before it is known since when it holds."""

    id: str
    severity: str
    title: str
    detail: str
    next_step: str
    link: str


class Alerts:
    """clock: Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def of(self, findings: Sequence[Finding]) -> list[Alert]:
        """The worst first. What is found no more is forgotten."""
        now = self._clock()
        self._since = {finding.id: self._since.get(finding.id, now) for finding in findings}
        ordered = sorted(findings, key=lambda finding: (finding.severity != "error", finding.id))
        return [Alert(*finding[:5], since=self._since[finding.id], link=finding.link) for finding in ordered]


def engine_findings(state: str, restarts: int) -> Iterator[Finding]:
    if state not in ("ready", "starting", "draining"):
        yield Finding(
            "engine", "error", "The engine is not serving", f"It is {state}; it was restarted {restarts} times.",
            "Look at the server's log for the engine's last words.", "/ui/settings",
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


def traffic_findings(points: Sequence[Point]) -> Iterator[Finding]:
    """points: of the last minutes, one a second, oldest first."""
    recent = points[-_QUEUE_SECONDS:]
    if len(recent) == _QUEUE_SECONDS and recent[0].waiting and recent[-1].waiting > 2 * recent[0].waiting:
        yield Finding(
            "queue", "warning", "The queue grows", f"{recent[-1].waiting} sequences wait, {recent[0].waiting} did "
            f"{_QUEUE_SECONDS} seconds ago.", "Lower a tenant's limits, or add a replica.", "/ui/requests",
        )  # fmt: skip
    yield from _thrashing(points)
    last = points[-_ERROR_SECONDS:]
    errors, requests = sum(point.errors for point in last), sum(point.requests for point in last)
    if errors and errors >= _ERROR_SHARE * requests:
        yield Finding(
            "errors", "error", "Requests fail", f"{errors} of {requests} requests of the last minute ended in a "
            "server's error.", "Open the failed requests.", "/ui/requests",
        )  # fmt: skip


def _thrashing(points: Sequence[Point]) -> Iterator[Finding]:
    """The cache is full and finds half of what it found in the minutes before."""
    recent, before = points[-_THRASHING_SECONDS:], points[: -2 * _THRASHING_SECONDS]
    now, then = _mean_hit_rate(recent), _mean_hit_rate(before)
    is_full = bool(recent) and all(point.kv_use > _FULL for point in recent)
    if is_full and now is not None and then is not None and now < _HIT_RATE_LOST * then:
        yield Finding(
            "cache", "warning", "The prefix cache is thrashing", f"All KV blocks are in use and the hit rate fell from "
            f"{then:.0%} to {now:.0%}.", "Pin what matters, or raise --kv-cache-memory.", "/ui/cache",
        )  # fmt: skip


def _mean_hit_rate(points: Sequence[Point]) -> float | None:
    rates = [point.cache_hit_rate for point in points if point.cache_hit_rate is not None]
    return sum(rates) / len(rates) if rates else None
