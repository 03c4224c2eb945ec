"""Families of /metrics whose numbers are read at each scrape: of a base model's engines, and of the machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from multiflora_engine.profiling.process_memory import own_resident_bytes, resident_bytes_of
from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.messages import EngineStats, Ready, ResidencyReport, StageMemory
from multiflora_platform.observability.artifact_metrics import ArtifactCounts, artifact_families
from multiflora_platform.observability.nvml import Gpu
from multiflora_platform.observability.tier_metrics import tier_families

ENGINE_STATES = ("starting", "ready", "restarting", "failed", "stopped")
Rows = Sequence[tuple[Mapping[str, str], float]]
"""Labels beside model_name, and the value."""


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
    """One base model's engines together at the time of a scrape; the route of /metrics fills it."""

    model: str
    """The base model's name."""
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


class MachineFamilies(Collector):
    """model: the base model's that the server was started with."""

    def __init__(self, model: str, gpus: Sequence[Gpu], artifacts: ArtifactCounts) -> None:
        self._model = model
        self._gpus = gpus
        self._artifacts = artifacts

    def collect(self) -> Iterable[Metric]:
        """No family of GPUs without one that tells."""
        yield _resident_memory(self._model, "gateway", own_resident_bytes())
        yield from artifact_families(self._model, "gateway", self._artifacts)
        utilization = [({"gpu": str(g.index)}, g.utilization) for g in self._gpus if g.utilization is not None]
        memory = [({"gpu": str(g.index)}, g.memory_used) for g in self._gpus if g.memory_used is not None]
        if utilization:
            text = "Share of time in which a kernel ran"
            yield _labelled(self._model, "multiflora_gpu_utilization", text, utilization)
        if memory:
            yield _labelled(self._model, "multiflora_gpu_memory_used_bytes", "Memory of all processes", memory)


class EngineFamilies(Collector):
    """The engines' own numbers as families, made for one scrape."""

    def __init__(self, view: EngineView) -> None:
        self._model = view.model
        self._view = view

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
        yield from artifact_families(self._model, "engine", ArtifactCounts.of_engines(stats))
        yield self._counter("multiflora_engine_restarts", "Restarts of the engine", self._view.restarts)
        yield self._states()
        yield from self._replicas()
        yield from self._memory()
        yield self._memory_by_use()
        yield from self._memory_by_stage()
        yield self._residency()
        yield self._lora_info()
        yield from self._cache_config()

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        return self._labelled(name, text, [({}, value)])

    def _labelled(self, name: str, text: str, rows: Rows) -> GaugeMetricFamily:
        return _labelled(self._model, name, text, rows)

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
        rows = [({"reason": "capacity"}, waiting - deferred), ({"reason": "deferred"}, deferred)]
        return self._labelled("vllm:num_requests_waiting_by_reason", "Sequences that wait, by what for", rows)

    def _states(self) -> GaugeMetricFamily:
        rows = [({"state": state}, float(state == self._view.state)) for state in ENGINE_STATES]
        return self._labelled("multiflora_engine_state", "1 for the engine's present state", rows)

    def _memory(self) -> Iterable[GaugeMetricFamily]:
        size = resident_bytes_of(replica.pid for replica in self._view.replicas)
        if size is not None:
            yield _resident_memory(self._model, "engine", size)

    def _memory_by_use(self) -> GaugeMetricFamily:
        """What each engine that serves has taken for what; on a CPU, KV blocks that were never written take less."""
        rows = [
            ({"replica": replica.id, "use": use}, float(size))
            for replica in self._view.replicas
            if replica.ready is not None
            for use, size in _uses_of_memory(replica.ready, replica.stats).items()
        ]
        return self._labelled("multiflora_memory_bytes", "Memory of an engine, by what it is for", rows)

    def _memory_by_stage(self) -> Iterable[GaugeMetricFamily]:
        """Of engines whose model is divided into stages; no family without one."""
        rows = [
            ({"replica": replica.id, "stage": str(number), "use": use}, float(size))
            for replica in self._view.replicas
            if replica.ready is not None and len(replica.ready.stages) > 1
            for number, stage in enumerate(replica.ready.stages)
            for use, size in _uses_of_stage(number, stage, replica.stats).items()
        ]
        if rows:
            yield self._labelled("multiflora_stage_memory_bytes", "Memory of a stage's ranks, by what it is for", rows)

    def _replicas(self) -> Iterable[GaugeMetricFamily]:
        """The parts of the sums above, by engine."""
        for name, text, value in _OF_REPLICAS:
            rows = [({"replica": replica.id}, value(replica)) for replica in self._view.replicas]
            yield self._labelled(f"multiflora_replica_{name}", text, rows)
        ages = [({"replica": one.id}, one.state_age) for one in self._view.replicas if one.state_age is not None]
        yield self._labelled("multiflora_replica_state_age_seconds", "Seconds since it was last heard of", ages)

    def _residency(self) -> GaugeMetricFamily:
        counts = dict.fromkeys(("slot", "cpu", "disk"), 0)
        for adapter in self._view.adapters:
            counts[adapter.residency] = counts.get(adapter.residency, 0) + 1
        rows = [({"residency": place}, float(count)) for place, count in counts.items()]
        return self._labelled("multiflora_adapters", "Adapters by where their weights are", rows)

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


_OF_REPLICAS: tuple[tuple[str, str, Callable[[ReplicaView], float]], ...] = (
    ("ready", "1 while it serves", lambda replica: float(replica.state == "ready")),
    ("restarts", "Restarts since the server started", lambda replica: replica.restarts),
    ("running", "Sequences that run", lambda replica: replica.stats.running),
    ("waiting", "Sequences that wait", lambda replica: replica.stats.waiting),
    ("pending_prefill_tokens", "Prompt tokens to be computed", lambda replica: replica.stats.pending_prefill_tokens),
    ("kv_cache_usage", "Used share of KV blocks", lambda replica: _usage(replica.stats)),
    ("kv_blocks_cached", "Blocks that its prefix cache can find", lambda replica: replica.stats.cached_blocks),
)


def _labelled(model: str, name: str, text: str, rows: Rows) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    for labels, value in rows:
        family.add_sample(name, {"model_name": model, **labels}, value)
    return family


def _resident_memory(model: str, process: str, size: float) -> GaugeMetricFamily:
    rows = [({"process": process}, size)]
    return _labelled(model, "multiflora_resident_memory_bytes", "Memory that a process has now", rows)


def _uses_of_memory(ready: Ready, stats: EngineStats) -> dict[str, int]:
    return {
        "weights": ready.weight_bytes,
        "kv_cache": ready.kv_bytes,
        "adapters": stats.adapter_bytes,
        "adapters_host": stats.adapter_host_bytes,
        "kv_host": sum(tier.bytes for tier in stats.tiers if tier.name == "host"),
    }


def _uses_of_stage(number: int, stage: StageMemory, stats: EngineStats) -> dict[str, int]:
    adapters = stats.stage_adapter_bytes[number] if stats.stage_adapter_bytes else 0
    return {"weights": stage.weight_bytes, "kv_cache": stage.kv_bytes, "adapters": adapters}


def _usage(stats: EngineStats) -> float:
    return 1.0 - stats.free_blocks / stats.num_blocks if stats.num_blocks else 0.0
