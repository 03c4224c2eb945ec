"""How each model is used at the moment: when last, how long its last answers took, how fast it writes; in memory.

Each has its own last answers, so that a busy one does not push out those of a quiet one.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from multiflora_platform.insight.series import quantile

TIMED_ANSWERS = 100
SPEED_SECONDS = 10
_MOST_ADAPTERS = 4096


class RecentUse(NamedTuple):
    """Of one model, since the server's start."""

    last_used_at: float  # Unix seconds: the last request's arrival
    timed_answers: int  # that p95_seconds is about: the last TIMED_ANSWERS at most
    p95_seconds: float | None  # from arrival to end, of whole answers; None before the first
    ended: int  # requests that error_share is about: the last TIMED_ANSWERS at most
    error_share: float | None  # of them, those that ended in a server's error; None before the first
    tokens_per_second: float  # over the last SPEED_SECONDS whole seconds


@dataclass
class _Recent:
    used_at: float
    times: deque[float] = field(default_factory=lambda: deque(maxlen=TIMED_ANSWERS))
    failed: deque[bool] = field(default_factory=lambda: deque(maxlen=TIMED_ANSWERS))
    """Of the last requests that ended, whether by a server's error."""
    tokens: deque[list[int]] = field(default_factory=lambda: deque(maxlen=SPEED_SECONDS + 1))
    """[second, tokens] of the last seconds that had any."""


class AdapterActivity:
    """By adapter, None for the base model. The longest unused are forgotten first. clock: Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._recent: OrderedDict[str | None, _Recent] = OrderedDict()

    def asked(self, adapter: str | None, at: float) -> None:
        """A request came."""
        self._recent.setdefault(adapter, _Recent(at)).used_at = at
        self._recent.move_to_end(adapter)
        if len(self._recent) > _MOST_ADAPTERS:
            self._recent.popitem(last=False)

    def wrote(self, adapter: str | None, count: int) -> None:
        """So many tokens, now."""
        recent = self._recent.get(adapter)
        if recent is None:
            return
        second = int(self._clock())
        if not recent.tokens or recent.tokens[-1][0] != second:
            recent.tokens.append([second, 0])
        recent.tokens[-1][1] += count

    def ended(self, adapter: str | None, seconds: float | None, *, is_error: bool) -> None:
        """A request ended; seconds: of a whole answer, since the request came."""
        recent = self._recent.get(adapter)
        if recent is None:
            return
        recent.failed.append(is_error)
        if seconds is not None:
            recent.times.append(seconds)

    def all(self) -> dict[str | None, RecentUse]:
        now = int(self._clock())
        return {adapter: _shown(recent, now) for adapter, recent in self._recent.items()}


def _shown(recent: _Recent, now: int) -> RecentUse:
    tokens = sum(count for second, count in recent.tokens if now - SPEED_SECONDS <= second < now)
    p95 = quantile(sorted(recent.times), 0.95)
    share = sum(recent.failed) / len(recent.failed) if recent.failed else None
    return RecentUse(recent.used_at, len(recent.times), p95, len(recent.failed), share, tokens / SPEED_SECONDS)
