"""The last fifteen minutes second by second, and the last day minute by minute, in memory.

Observations are added as they happen; a tick closes each second. Knows neither HTTP nor engines.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from multiflora_platform.insight.views.activity import BaseGauges, EndedRequests, Point, ReplicaMemory, SeriesAnswer

SECONDS, MINUTES = 900, 1440
_MINUTE = 60
_MOST_SAMPLES = 4096
_MOST_MODELS = 32
OTHER = "(other)"


@dataclass(frozen=True)
class EngineGauges:
    """The engines of one base model at a tick; gauges.py fills it."""

    running: int = 0
    waiting: int = 0
    kv_blocks: int = 0
    kv_blocks_used: int = 0
    # Tokens since the engines' start, as their heartbeats count them.
    cache_queries: int = 0
    cache_hits: int = 0
    engine_bytes: int | None = None
    """Memory that their processes have now; None while there is none."""
    device_bytes: int | None = None
    cache_bytes: int = 0
    """Of engine_bytes, what caches that fill up hold by now: KV blocks on a CPU, copies of them."""
    memory: Mapping[str, ReplicaMemory] = field(default_factory=dict)

    @property
    def kv_use(self) -> float:
        return self.kv_blocks_used / self.kv_blocks if self.kv_blocks else 0.0

    @property
    def shown(self) -> BaseGauges:
        return BaseGauges(
            self.running,
            self.waiting,
            self.kv_blocks,
            self.kv_blocks_used,
            self.engine_bytes,
            self.device_bytes,
            dict(self.memory),
        )


@dataclass(frozen=True)
class Gauges:
    """The server at a tick. bases: by name, base models whose engines run."""

    bases: Mapping[str, EngineGauges]
    gateway_bytes: int
    """Memory that the gateway's process has now."""

    def total(self, of: Callable[[EngineGauges], int | None]) -> int:
        return sum(of(base) or 0 for base in self.bases.values())

    def total_of_some(self, of: Callable[[EngineGauges], int | None]) -> int | None:
        """None where no base model has any."""
        return None if all(of(base) is None for base in self.bases.values()) else self.total(of)


@dataclass
class _Ended:
    """One model's requests that ended since the interval began. seconds: of whole answers."""

    requests: int = 0
    errors: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float | None, *, is_error: bool) -> None:
        self.requests += 1
        self.errors += is_error
        if seconds is not None:
            _keep(self.seconds, seconds)

    @property
    def shown(self) -> EndedRequests:
        return EndedRequests(self.requests, self.errors, quantile(sorted(self.seconds), 0.95))


@dataclass
class _Interval:
    """What happened since it began."""

    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    evicted_tokens: int = 0
    ended: defaultdict[str, _Ended] = field(default_factory=lambda: defaultdict(_Ended))
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
            running=gauges.total(lambda base: base.running),
            waiting=gauges.total(lambda base: base.waiting),
            kv_use=max((base.kv_use for base in gauges.bases.values()), default=0.0),
            cache_hit_rate=self.cache_hits / self.cache_queries if self.cache_queries else None,
            requests=sum(one.requests for one in self.ended.values()),
            errors=sum(one.errors for one in self.ended.values()),
            host_bytes=gauges.gateway_bytes + gauges.total(lambda base: base.engine_bytes),
            gateway_bytes=gauges.gateway_bytes,
            engine_bytes=gauges.total_of_some(lambda base: base.engine_bytes),
            device_bytes=gauges.total_of_some(lambda base: base.device_bytes),
            by_model=by_model | ({OTHER: rest} if rest > 1e-9 else {}),
            ended_by_model={model: one.shown for model, one in self.ended.items()},
            evicted_tokens_per_second=self.evicted_tokens / seconds,
            cache_bytes=gauges.total(lambda base: base.cache_bytes),
            by_base={name: base.shown for name, base in gauges.bases.items()},
        )


class Series:
    """Call `tick` once a second."""

    def __init__(self) -> None:
        self.seconds: deque[Point] = deque(maxlen=SECONDS)
        self.minutes: deque[Point] = deque(maxlen=MINUTES)
        self._second, self._minute = _Interval(), _Interval()
        self._ticks = 0
        # Of each base model the tokens that were asked of its cache, and found, at the last tick.
        self._last: dict[str, tuple[int, int]] = {}

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

    def ended(self, model: str, seconds: float | None, *, is_error: bool) -> None:
        """seconds: from arrival to end, of a whole answer. Of more models than are told of, the rest are one."""
        for interval in (self._second, self._minute):
            known = model in interval.ended or len(interval.ended) < _MOST_MODELS
            interval.ended[model if known else OTHER].add(seconds, is_error=is_error)

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
        for name, base in gauges.bases.items():
            before = self._last.get(name, (0, 0))
            queries, hits = base.cache_queries - before[0], base.cache_hits - before[1]
            if queries < 0:  # the engine was restarted and counts anew
                queries, hits = base.cache_queries, base.cache_hits
            for interval in (self._second, self._minute):
                interval.cache_queries += queries
                interval.cache_hits += hits
        self._last = {name: (base.cache_queries, base.cache_hits) for name, base in gauges.bases.items()}


def _keep(samples: list[float], value: float) -> None:
    """Quantiles of a busy interval do not need every sample."""
    if len(samples) < _MOST_SAMPLES:
        samples.append(value)


def quantile(ordered: list[float], share: float) -> float | None:
    """Of ascending values, the one below which this share of them lies; None for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
