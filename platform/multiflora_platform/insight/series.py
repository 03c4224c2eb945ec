"""The last fifteen minutes second by second, and the last day minute by minute, in memory.

Observations are added as they happen; a tick closes each second. Knows neither HTTP nor the engine.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from multiflora_platform.insight.views import Point, SeriesAnswer

SECONDS, MINUTES = 900, 1440
_MINUTE = 60
_MOST_SAMPLES = 4096
_MOST_MODELS = 32
OTHER = "(other)"


@dataclass(frozen=True)
class Gauges:
    """The server at a tick; Insight fills it."""

    running: int
    waiting: int
    kv_use: float
    # Tokens since the engine's start, as its heartbeat counts them.
    cache_queries: int
    cache_hits: int
    gateway_bytes: int
    """Memory that the gateway's process has now."""
    engine_bytes: int | None
    """The engine's; None while there is no engine."""
    device_bytes: int | None
    cache_bytes: int = 0
    """Of the engine's, what caches that fill up hold by now: KV blocks on a CPU, copies of them."""


@dataclass
class _Interval:
    """What happened since it began."""

    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    evicted_tokens: int = 0
    requests: int = 0
    errors: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    cache_queries: int = 0
    cache_hits: int = 0

    def point(self, at: float, seconds: int, gauges: Gauges) -> Point:
        ttft, itl = sorted(self.ttft), sorted(self.itl)
        by_model = {model: count / seconds for model, count in self.tokens.most_common(_MOST_MODELS)}
        rest = sum(self.tokens.values()) / seconds - sum(by_model.values())
        return Point(
            at=at,
            tokens_per_second=sum(self.tokens.values()) / seconds,
            prompt_tokens_per_second=self.prompt_tokens / seconds,
            ttft_p50=quantile(ttft, 0.5),
            ttft_p95=quantile(ttft, 0.95),
            itl_p50=quantile(itl, 0.5),
            itl_p95=quantile(itl, 0.95),
            running=gauges.running,
            waiting=gauges.waiting,
            kv_use=gauges.kv_use,
            cache_hit_rate=self.cache_hits / self.cache_queries if self.cache_queries else None,
            requests=self.requests,
            errors=self.errors,
            host_bytes=gauges.gateway_bytes + (gauges.engine_bytes or 0),
            gateway_bytes=gauges.gateway_bytes,
            engine_bytes=gauges.engine_bytes,
            device_bytes=gauges.device_bytes,
            by_model=by_model | ({OTHER: rest} if rest > 1e-9 else {}),
            evicted_tokens_per_second=self.evicted_tokens / seconds,
            cache_bytes=gauges.cache_bytes,
        )


class Series:
    """Call `tick` once a second."""

    def __init__(self) -> None:
        self.seconds: deque[Point] = deque(maxlen=SECONDS)
        self.minutes: deque[Point] = deque(maxlen=MINUTES)
        self._second, self._minute = _Interval(), _Interval()
        self._ticks = 0
        self._last: tuple[int, int] = (0, 0)

    def prompt(self, tokens: int, ttft: float, evicted_tokens: int = 0) -> None:
        """A prompt was computed, and its first token came after `ttft` seconds. evicted_tokens: those of it that were
        computed although they had been cached."""
        for interval in (self._second, self._minute):
            interval.prompt_tokens += tokens
            interval.evicted_tokens += evicted_tokens
            _keep(interval.ttft, ttft)

    def generated(self, model: str, count: int, since_last: float | None) -> None:
        """since_last: seconds since the answer's tokens before."""
        for interval in (self._second, self._minute):
            interval.tokens[model] += count
            if since_last is not None:
                _keep(interval.itl, since_last)

    def ended(self, *, is_error: bool) -> None:
        for interval in (self._second, self._minute):
            interval.requests += 1
            interval.errors += is_error

    def tick(self, at: float, gauges: Gauges) -> Point:
        """Closes the second that ends now (Unix seconds)."""
        self._count_cache(gauges)
        point = self._second.point(at, 1, gauges)
        self.seconds.append(point)
        self._second = _Interval()
        self._ticks += 1
        if self._ticks % _MINUTE == 0:
            self.minutes.append(self._minute.point(at, _MINUTE, gauges))
            self._minute = _Interval()
        return point

    def window(self, seconds: int) -> SeriesAnswer:
        """The last `seconds`, in the finest steps that reach back so far."""
        if seconds <= SECONDS:
            return SeriesAnswer(1, list(self.seconds)[-seconds:])
        return SeriesAnswer(_MINUTE, list(self.minutes)[-(seconds // _MINUTE) :])

    def _count_cache(self, gauges: Gauges) -> None:
        queries, hits = gauges.cache_queries - self._last[0], gauges.cache_hits - self._last[1]
        self._last = (gauges.cache_queries, gauges.cache_hits)
        if queries < 0:  # the engine was restarted and counts anew
            queries, hits = gauges.cache_queries, gauges.cache_hits
        for interval in (self._second, self._minute):
            interval.cache_queries += queries
            interval.cache_hits += hits


def _keep(samples: list[float], value: float) -> None:
    """Quantiles of a busy interval do not need every sample."""
    if len(samples) < _MOST_SAMPLES:
        samples.append(value)


def quantile(ordered: list[float], share: float) -> float | None:
    """Of ascending values, the one below which this share of them lies; None for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
