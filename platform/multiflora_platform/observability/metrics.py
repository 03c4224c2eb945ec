"""What /metrics shows: vLLM's families where the meaning is the same, and `multiflora_…` for our own.

Observations are made as requests go by; the engine's gauges are read from its statistics at each scrape.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.messages import EngineStats, Ready, ResidencyReport
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.observability.nvml import Gpu
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.observability.process_memory import own_resident_bytes, resident_bytes_of
from multiflora_platform.observability.router_metrics import RouterMetrics
from multiflora_platform.observability.tenant_metrics import TenantMetrics
from multiflora_platform.observability.tier_metrics import tier_families
from multiflora_platform.web.openai_errors import ApiError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENGINE_STATES = ("starting", "ready", "restarting", "failed", "stopped")
MAX_ADAPTER_LABELS = 256
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_ITL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 40)
_E2E = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_COUNTS = (1, 2, 5, 10, 20)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


@dataclass(frozen=True)
class ReplicaView:
    """One engine at the time of a scrape; stats: of its last heartbeat."""

    id: str
    state: str
    restarts: int
    pid: int | None
    stats: EngineStats
    state_age: float | None = None
    """Seconds since it was last heard of, before the scrape asked; None while it does not serve."""
    ready: Ready | None = None


@dataclass(frozen=True)
class EngineView:
    """The engines together at the time of a scrape; the route of /metrics fills it."""

    state: str
    restarts: int
    stats: EngineStats
    ready: Ready | None
    adapters: Iterable[ResidencyReport] = ()
    """What the engine holds."""
    running: Iterable[str] = ()
    """Adapter names of our requests that have their first token."""
    waiting: Iterable[str] = ()
    """Adapter names of our requests that wait for it."""
    replicas: Sequence[ReplicaView] = ()
    gpus: Iterable[Gpu] = ()


class Metrics:
    """Every family carries the label model_name, the base model's."""

    def __init__(self, model_name: str) -> None:
        # Halves the page: no operator reads when a family was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._model = model_name
        self._adapter_labels: set[str] = {"base"}
        self.ttft = self._histogram("vllm:time_to_first_token_seconds", "Seconds to the first token", _TTFT)
        self.queue = self._histogram("vllm:request_queue_time_seconds", "Seconds before it first runs", _TTFT)
        self.itl = self._histogram("vllm:inter_token_latency_seconds", "Seconds between two tokens", _ITL)
        self.e2e = self._histogram("vllm:e2e_request_latency_seconds", "Seconds from arrival to end", _E2E)
        self.prefill = self._histogram("vllm:request_prefill_time_seconds", "Seconds from start to first token", _E2E)
        self.decode = self._histogram("vllm:request_decode_time_seconds", "Seconds from first to last token", _E2E)
        self.inference = self._histogram("vllm:request_inference_time_seconds", "Seconds from start to end", _E2E)
        self.tpot = self._histogram(
            "vllm:request_time_per_output_token_seconds", "A request's mean seconds between tokens", _ITL
        )
        self.params_n = self._histogram("vllm:request_params_n", "Answers asked for", _COUNTS)
        self.params_max_tokens = self._histogram("vllm:request_params_max_tokens", "Tokens asked for at most", _TOKENS)
        self.most_generated = self._histogram(
            "vllm:request_max_num_generation_tokens", "Tokens of a request's longest answer", _TOKENS
        )
        self.computed = self._histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens that the prefix cache did not have", _TOKENS
        )
        self.request_prompt = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self.request_generation = self._histogram("vllm:request_generation_tokens", "Tokens of an answer", _TOKENS)
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens")
        self._prompt_cached = self._counter("vllm:prompt_tokens_cached", "Prompt tokens that the prefix cache had")
        self._cache_written = self._counter(
            "multiflora_prompt_tokens_cache_written", "Prompt tokens in blocks added to the prefix cache"
        )
        self._uncached = self._counter(
            "multiflora_prompt_tokens_uncached", "Prompt tokens that were neither in the prefix cache nor added to it"
        )
        self._prompt_sources = Counter(
            "vllm:prompt_tokens_by_source",
            "Prompt tokens by where their KV came from",
            ["model_name", "source"],
            registry=self._registry,
        )
        self.generation_tokens = self._counter("vllm:generation_tokens", "Generated tokens")
        self._success = Counter(
            "vllm:request_success", "Ended answers", ["model_name", "finished_reason"], registry=self._registry
        )
        self._requests = Counter(
            "multiflora_requests", "Ended prompts", ["model_name", "adapter", "outcome"], registry=self._registry
        )
        self._tokens = Counter(
            "multiflora_adapter_tokens", "Tokens", ["model_name", "adapter", "kind"], registry=self._registry
        )
        self._held = Counter(
            "multiflora_held_token_seconds",
            "Tokens that contexts and marks held in the prefix cache, times seconds",
            ["model_name", "adapter"],
            registry=self._registry,
        )
        self._http = Counter(
            "multiflora_http_requests", "HTTP responses", ["method", "route", "status"], registry=self._registry
        )
        self.router = RouterMetrics(self._registry, model_name)
        self.tenants = TenantMetrics(model_name)

    def prompt(
        self, adapter: str | None, tenant: str | None, num_tokens: int, params: SamplingParams, arrival: float
    ) -> PromptMetrics:
        """arrival: Unix seconds."""
        return PromptMetrics(self, adapter, tenant, num_tokens, params, time.time() - arrival)

    def http(self, method: str, route: str, status: int) -> None:
        """route: as declared, never a client's path."""
        self._http.labels(method, route, str(status)).inc()

    def prompt_began(self, num_tokens: int, num_cached: int, num_written: int) -> None:
        computed = num_tokens - num_cached
        self.prompt_tokens.inc(num_tokens)
        self.request_prompt.observe(num_tokens)
        self.computed.observe(computed)
        self._prompt_cached.inc(num_cached)
        self._cache_written.inc(num_written)
        self._uncached.inc(computed - num_written)
        self._prompt_sources.labels(self._model, "local_compute").inc(computed)
        self._prompt_sources.labels(self._model, "local_cache_hit").inc(num_cached)

    def answered(self, reason: str) -> None:
        self._success.labels(self._model, reason).inc()

    def ended(self, adapter: str | None, outcome: str, tokens: Mapping[str, int]) -> None:
        """tokens: by kind."""
        label = self._label(adapter)
        self._requests.labels(self._model, label, outcome).inc()
        for kind, count in tokens.items():
            self._tokens.labels(self._model, label, kind).inc(count)

    def held(self, adapter: str | None, token_seconds: int) -> None:
        self._held.labels(self._model, self._label(adapter)).inc(token_seconds)

    def render(self, view: EngineView) -> bytes:
        """The text format, 0.0.4; without the tenants, which render by themselves."""
        scrape = CollectorRegistry()
        scrape.register(_Snapshot(self._model, view, self.itl))
        return generate_latest(self._registry) + generate_latest(scrape)

    def _label(self, adapter: str | None) -> str:
        """Names beyond the first few hundred share one label, so that churn cannot grow the families without end."""
        label = adapter or "base"
        if label not in self._adapter_labels:
            if len(self._adapter_labels) >= MAX_ADAPTER_LABELS:
                return "other"
            self._adapter_labels.add(label)
        return label

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model_name"], buckets=buckets, registry=self._registry).labels(self._model)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self._registry).labels(self._model)


class PromptMetrics(Observer):
    """Of one prompt, from arrival to end. elapsed: seconds since arrival when this is made."""

    def __init__(
        self,
        metrics: Metrics,
        adapter: str | None,
        tenant: str | None,
        num_tokens: int,
        params: SamplingParams,
        elapsed: float,
    ) -> None:
        self._metrics = metrics
        self._adapter, self._tenant = adapter, tenant
        self._num_prompt = num_tokens
        self._arrival = time.perf_counter() - elapsed
        self._queued = 0.0
        self._cached = self._written = self._again = 0
        self._first: float | None = None
        self._last: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        metrics.params_n.observe(params.n)
        metrics.params_max_tokens.observe(params.max_tokens or 0)

    def started(self, start: PromptStart) -> None:
        metrics, self._first = self._metrics, time.perf_counter()
        self._queued, self._cached, self._written = start.queued_seconds, start.cached_tokens, start.cache_write_tokens
        self._again = start.evicted_tokens
        metrics.queue.observe(start.queued_seconds)
        metrics.prompt_began(self._num_prompt, start.cached_tokens, start.cache_write_tokens)
        metrics.ttft.observe(self._first - self._arrival)
        metrics.prefill.observe(max(0.0, self._first - self._arrival - start.queued_seconds))

    def tokens(self, new: NewTokens) -> None:
        index, count = new.index, len(new.token_ids)
        if new.since_last is not None:
            self._metrics.itl.observe(new.since_last)
        self._last[index] = new.at
        self._counts[index] = self._counts.get(index, 0) + count
        self._metrics.generation_tokens.inc(count)

    def answered(self, index: int, reason: str) -> None:
        count = self._counts.get(index, 0)
        self._metrics.answered(reason)
        self._metrics.request_generation.observe(count)
        if count > 1 and self._first is not None:
            self._metrics.tpot.observe((self._last[index] - self._first) / (count - 1))

    def ended(self, outcome: str, error: ApiError | None) -> None:
        metrics, generated = self._metrics, sum(self._counts.values())
        if outcome == "ok":
            now = time.perf_counter()
            metrics.e2e.observe(now - self._arrival)
            metrics.inference.observe(max(0.0, now - self._arrival - self._queued))
            metrics.most_generated.observe(max(self._counts.values(), default=0))
        else:
            metrics.answered(outcome)
        if self._first is not None:
            metrics.decode.observe(max(self._last.values(), default=self._first) - self._first)
        prompt = self._num_prompt if self._first is not None else 0
        cache = {"cached": self._cached, "cache_written": self._written, "computed_again": self._again}
        counts = {"prompt": prompt, **cache, "generated": generated}
        metrics.ended(self._adapter, outcome, counts)
        metrics.tenants.ended(self._tenant, outcome, counts)


class _Snapshot(Collector):
    """The engine's own numbers as families, made for one scrape."""

    def __init__(self, model: str, view: EngineView, itl: Histogram) -> None:
        self._model = model
        self._view = view
        self._itl = itl

    def collect(self) -> Iterable[Metric]:
        stats = self._view.stats
        yield self._gauge("vllm:num_requests_running", "Sequences that run", stats.running)
        yield self._gauge("vllm:num_requests_waiting", "Sequences that wait", stats.waiting)
        yield self._waiting_by_reason()
        yield self._gauge("vllm:kv_cache_usage_perc", "Used share of KV blocks; evictable ones are free", _usage(stats))
        yield self._counter("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache", stats.cache_queries)
        yield self._counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache", stats.cache_hits)
        yield self._counter("vllm:num_preemptions", "Preempted sequences", stats.preemptions)
        yield self._counter("vllm:spec_decode_num_drafts", "Drafts that were verified", stats.drafts)
        yield self._counter("vllm:spec_decode_num_draft_tokens", "Tokens drafted by prompt lookup", stats.draft_tokens)
        yield self._counter("vllm:spec_decode_num_accepted_tokens", "Drafted tokens accepted", stats.accepted_tokens)
        yield self._histogram("vllm:iteration_tokens_total", "Tokens computed in an engine step", stats.step_tokens)
        yield self._histogram(
            "vllm:request_num_preemptions", "Preemptions of an answer that ended", stats.sequence_preemptions
        )
        yield self._counter("multiflora_engine_steps", "Engine steps", stats.steps)
        yield self._counter("multiflora_engine_step_seconds", "Seconds in engine steps", stats.step_seconds)
        yield self._counter("multiflora_kv_block_evictions", "Cached blocks given up", stats.evictions)
        yield from tier_families(self._model, stats.tiers)
        yield self._gauge("multiflora_kv_blocks_cached", "Blocks that the prefix cache can find", stats.cached_blocks)
        yield self._counter("multiflora_adapter_loads", "Adapters brought to the device", stats.adapter_loads)
        yield self._counter("multiflora_adapter_evictions", "Adapters sent from the device", stats.adapter_evictions)
        yield self._counter("multiflora_engine_restarts", "Restarts of the engine", self._view.restarts)
        yield self._states()
        yield from self._replicas()
        yield self._memory()
        yield self._memory_by_use()
        yield from self._gpus()
        yield self._residency()
        yield self._lora_info()
        yield from self._cache_config()
        yield self._alias("vllm:time_per_output_token_seconds")

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        return self._labelled(name, text, [({}, value)])

    def _labelled(self, name: str, text: str, rows: list[tuple[Mapping[str, str], float]]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text)
        for labels, value in rows:
            family.add_sample(name, {"model_name": self._model, **labels}, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _histogram(self, name: str, text: str, values: Distribution) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, text, labels=["model_name"])
        limits = [*map(floatToGoString, values.bounds), "+Inf"]
        buckets = list(zip(limits, itertools.accumulate(values.counts or (0,)), strict=True))
        family.add_metric([self._model], buckets, values.total)
        return family

    def _waiting_by_reason(self) -> GaugeMetricFamily:
        """deferred: for something of their own, an adapter mostly; others pass them."""
        deferred, waiting = self._view.stats.deferred, self._view.stats.waiting
        rows: list[tuple[Mapping[str, str], float]] = [
            ({"reason": "capacity"}, waiting - deferred),
            ({"reason": "deferred"}, deferred),
        ]
        return self._labelled("vllm:num_requests_waiting_by_reason", "Sequences that wait, by what for", rows)

    def _states(self) -> GaugeMetricFamily:
        rows = [({"state": state}, float(state == self._view.state)) for state in ENGINE_STATES]
        return self._labelled("multiflora_engine_state", "1 for the engine's present state", [*rows])

    def _gpus(self) -> Iterable[GaugeMetricFamily]:
        """No family without a GPU that tells."""
        utilization = [({"gpu": str(g.index)}, g.utilization) for g in self._view.gpus if g.utilization is not None]
        memory = [({"gpu": str(g.index)}, g.memory_used) for g in self._view.gpus if g.memory_used is not None]
        if utilization:
            yield self._labelled("multiflora_gpu_utilization", "Share of time in which a kernel ran", [*utilization])
        if memory:
            yield self._labelled("multiflora_gpu_memory_used_bytes", "Memory of all processes", [*memory])

    def _memory(self) -> GaugeMetricFamily:
        of_engines = resident_bytes_of(replica.pid for replica in self._view.replicas)
        rows: list[tuple[Mapping[str, str], float]] = [({"process": "gateway"}, own_resident_bytes())]
        if of_engines is not None:
            rows.append(({"process": "engine"}, of_engines))
        return self._labelled("multiflora_resident_memory_bytes", "Memory that a process has now", rows)

    def _memory_by_use(self) -> GaugeMetricFamily:
        """What each engine that serves has taken for what; on a CPU, KV blocks that were never written take less."""
        rows = [
            ({"replica": replica.id, "use": use}, float(size))
            for replica in self._view.replicas
            if replica.ready is not None
            for use, size in _uses_of_memory(replica.ready, replica.stats).items()
        ]
        return self._labelled("multiflora_memory_bytes", "Memory of an engine, by what it is for", [*rows])

    def _replicas(self) -> Iterable[GaugeMetricFamily]:
        """The parts of the sums above, by engine."""
        for name, text, value in _OF_REPLICAS:
            rows = [({"replica": replica.id}, value(replica)) for replica in self._view.replicas]
            yield self._labelled(f"multiflora_replica_{name}", text, [*rows])
        ages = [({"replica": one.id}, one.state_age) for one in self._view.replicas if one.state_age is not None]
        yield self._labelled("multiflora_replica_state_age_seconds", "Seconds since it was last heard of", [*ages])

    def _residency(self) -> GaugeMetricFamily:
        counts = dict.fromkeys(("slot", "cpu", "disk"), 0)
        for adapter in self._view.adapters:
            counts[adapter.residency] = counts.get(adapter.residency, 0) + 1
        rows = [({"residency": place}, float(count)) for place, count in counts.items()]
        return self._labelled("multiflora_adapters", "Adapters by where their weights are", [*rows])

    def _lora_info(self) -> GaugeMetricFamily:
        slots = self._view.ready.lora_slots if self._view.ready else 0
        labels = {
            "max_lora": str(slots),
            "waiting_lora_adapters": ",".join(sorted(set(self._view.waiting))),
            "running_lora_adapters": ",".join(sorted(set(self._view.running))),
        }
        return self._labelled(
            "vllm:lora_requests_info", "Adapters of running and waiting requests", [(labels, time.time())]
        )

    def _cache_config(self) -> Iterable[Metric]:
        if (ready := self._view.ready) is not None:
            labels = {"block_size": str(ready.block_size), "num_gpu_blocks": str(ready.num_blocks)}
            yield self._labelled("vllm:cache_config_info", "The KV cache's sizes", [(labels, 1.0)])

    def _alias(self, name: str) -> Metric:
        """vLLM's older name of the inter-token latency."""
        alias = Metric(name, "Seconds between two tokens", "histogram")
        for family in self._itl.collect():
            for sample in family.samples:
                labels = {"model_name": self._model, **sample.labels}
                alias.add_sample(sample.name.replace(family.name, name), labels, sample.value)
        return alias


_OF_REPLICAS: tuple[tuple[str, str, Callable[[ReplicaView], float]], ...] = (
    ("ready", "1 while it serves", lambda replica: float(replica.state == "ready")),
    ("restarts", "Restarts since the server started", lambda replica: replica.restarts),
    ("running", "Sequences that run", lambda replica: replica.stats.running),
    ("waiting", "Sequences that wait", lambda replica: replica.stats.waiting),
    ("pending_prefill_tokens", "Prompt tokens to be computed", lambda replica: replica.stats.pending_prefill_tokens),
    ("kv_cache_usage", "Used share of KV blocks", lambda replica: _usage(replica.stats)),
    ("kv_blocks_cached", "Blocks that its prefix cache can find", lambda replica: replica.stats.cached_blocks),
)


def _uses_of_memory(ready: Ready, stats: EngineStats) -> dict[str, int]:
    return {
        "weights": ready.weight_bytes,
        "kv_cache": ready.kv_bytes,
        "adapters": stats.adapter_bytes,
        "adapters_host": stats.adapter_host_bytes,
        "kv_host": sum(tier.bytes for tier in stats.tiers if tier.name == "host"),
    }


def _usage(stats: EngineStats) -> float:
    return 1.0 - stats.free_blocks / stats.num_blocks if stats.num_blocks else 0.0
