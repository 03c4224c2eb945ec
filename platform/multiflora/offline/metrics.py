"""What an engine of this program has done so far, under vLLM's names of metrics."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.messages import EngineStats


@dataclass(frozen=True)
class Counter:
    """Only grows. value: since the engine was made."""

    name: str
    value: int


@dataclass(frozen=True)
class Gauge:
    """Of this moment."""

    name: str
    value: float


@dataclass(frozen=True)
class HistogramMetric:
    """Only grows. buckets: how many of `count` observations are at most so large, by that bound as text; `sum` of all
    of them."""

    name: str
    count: int
    sum: int
    buckets: dict[str, int]


@dataclass(frozen=True)
class VectorMetric:
    """For programs that tell metrics apart by their class; there is none of it."""

    name: str
    values: list[int]


Metric = Counter | Gauge | HistogramMetric | VectorMetric


def metrics_of(stats: EngineStats) -> list[Metric]:
    used = stats.num_blocks - stats.free_blocks
    return [
        Gauge("vllm:num_requests_running", stats.running),
        Gauge("vllm:num_requests_waiting", stats.waiting),
        Gauge("vllm:kv_cache_usage_perc", used / stats.num_blocks if stats.num_blocks else 0.0),
        Counter("vllm:prefix_cache_queries", stats.cache_queries),
        Counter("vllm:prefix_cache_hits", stats.cache_hits),
        Counter("vllm:prompt_tokens", stats.prompt_tokens),
        Counter("vllm:generation_tokens", stats.generation_tokens),
        Counter("vllm:num_preemptions", stats.preemptions),
        Counter("vllm:spec_decode_num_drafts", stats.drafts),
        Counter("vllm:spec_decode_num_draft_tokens", stats.draft_tokens),
        Counter("vllm:spec_decode_num_accepted_tokens", stats.accepted_tokens),
        _histogram("vllm:iteration_tokens_total", stats.step_tokens),
        _histogram("vllm:request_num_preemptions", stats.sequence_preemptions),
        Counter("multiflora_engine_steps", stats.steps),
        Counter("multiflora_adapter_loads", stats.adapter_loads),
        Counter("multiflora_adapter_evictions", stats.adapter_evictions),
    ]


def _histogram(name: str, seen: Distribution) -> HistogramMetric:
    limits = [*map(str, map(float, seen.bounds)), "+Inf"]
    counts = list(itertools.accumulate(seen.counts or (0,)))
    return HistogramMetric(name, counts[-1], seen.total, dict(zip(limits, counts, strict=True)))
