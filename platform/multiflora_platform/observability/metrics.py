"""What /metrics shows: vLLM's families where the meaning is the same, and `multiflora_…` for our own.

Observations are made as requests go by; what is read at each scrape is scrape.py's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.observability.artifact_metrics import NO_ARTIFACTS, ArtifactCounts
from multiflora_platform.observability.nvml import Gpu
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.observability.router_metrics import RouterMetrics
from multiflora_platform.observability.scrape import EngineFamilies, EngineView, MachineFamilies
from multiflora_platform.observability.tenant_metrics import TenantMetrics
from multiflora_platform.web.openai_errors import ApiError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_ADAPTER_LABELS = 256
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_ITL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 40)
_E2E = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_COUNTS = (1, 2, 5, 10, 20)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Metrics:
    """Of one server. default: the name of the base model that it was started with."""

    def __init__(self, default: str) -> None:
        # Halves the page: no operator reads when a family was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._default = default
        self._models = {default: ModelMetrics(default)}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._http = Counter(
            "multiflora_http_requests", "HTTP responses", ["method", "route", "status"], registry=self._registry
        )

    def of(self, model: str) -> ModelMetrics:
        """The base model's with this name."""
        if model not in self._models:
            self._models[model] = ModelMetrics(model)
        return self._models[model]

    def http(self, method: str, route: str, status: int) -> None:
        """route: as declared, never a client's path."""
        self._http.labels(method, route, str(status)).inc()

    def render(
        self, views: Iterable[EngineView], gpus: Sequence[Gpu] = (), artifacts: ArtifactCounts = NO_ARTIFACTS
    ) -> bytes:
        """The text format, 0.0.4; without the tenants, which render by themselves. views: of each base model whose
        engines run. artifacts: of this server's data folder."""
        of_models = [one.registry for one in self._models.values()]
        scraped = [MachineFamilies(self._default, gpus, artifacts), *map(EngineFamilies, views)]
        return generate_latest(_Merged([self._registry, *of_models, *scraped]))

    def render_tenants(self) -> bytes:
        """As `render`."""
        return generate_latest(_Merged([one.tenants.registry for one in self._models.values()]))


class ModelMetrics:
    """Of one base model: every family carries its name as the label model_name."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
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
            registry=self.registry,
        )
        self.generation_tokens = self._counter("vllm:generation_tokens", "Generated tokens")
        self._success = Counter(
            "vllm:request_success", "Ended answers", ["model_name", "finished_reason"], registry=self.registry
        )
        self._requests = Counter(
            "multiflora_requests", "Ended prompts", ["model_name", "adapter", "outcome"], registry=self.registry
        )
        self._tokens = Counter(
            "multiflora_adapter_tokens", "Tokens", ["model_name", "adapter", "kind"], registry=self.registry
        )
        self._held = Counter(
            "multiflora_held_token_seconds",
            "Tokens that contexts and marks held in the prefix cache, times seconds",
            ["model_name", "adapter"],
            registry=self.registry,
        )
        self.registry.register(_OlderName(model, self.itl))
        self.router = RouterMetrics(self.registry, model)
        self.tenants = TenantMetrics(model)

    def prompt(
        self, adapter: str | None, tenant: str | None, num_tokens: int, params: SamplingParams, arrival: float
    ) -> PromptMetrics:
        """arrival: Unix seconds."""
        return PromptMetrics(self, adapter, tenant, num_tokens, params, time.time() - arrival)

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

    def _label(self, adapter: str | None) -> str:
        """Names beyond the first few hundred share one label, so that churn cannot grow the families without end."""
        label = adapter or "base"
        if label not in self._adapter_labels:
            if len(self._adapter_labels) >= MAX_ADAPTER_LABELS:
                return "other"
            self._adapter_labels.add(label)
        return label

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model_name"], buckets=buckets, registry=self.registry).labels(self._model)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self.registry).labels(self._model)


class PromptMetrics(Observer):
    """Of one prompt, from arrival to end. elapsed: seconds since arrival when this is made."""

    def __init__(
        self,
        metrics: ModelMetrics,
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


class _OlderName(Collector):
    """vLLM's older name of the inter-token latency."""

    _NAME = "vllm:time_per_output_token_seconds"

    def __init__(self, model: str, itl: Histogram) -> None:
        self._model = model
        self._itl = itl

    def collect(self) -> Iterable[Metric]:
        alias = Metric(self._NAME, "Seconds between two tokens", "histogram")
        for family in self._itl.collect():
            for sample in family.samples:
                labels = {"model_name": self._model, **sample.labels}
                alias.add_sample(sample.name.replace(family.name, self._NAME), labels, sample.value)
        yield alias


class _Merged(Collector):
    """What several collectors tell: each family once, with the samples of all."""

    def __init__(self, parts: Sequence[Collector]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for part in self._parts:
            for family in part.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return families.values()
