"""Puts one engine together from its configuration: weights, slots, device side, residency, scheduler, sampler.

Used by the engine process and by the offline `LLM`; knows the parts' constructors and nothing of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.slots import SlotPool, pool_size
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.core.host_memory import available_host_memory
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.rank_group import RankGrid
from multiflora_engine.engine import Engine
from multiflora_engine.execution.adapter_probe import probe_adapter
from multiflora_engine.execution.device import (
    choose_device,
    choose_dtype,
    device_memory,
    dtype_name,
    keep_freed_memory,
    memory_errors_explained,
    runs_asynchronously,
    use_device,
    use_threads,
)
from multiflora_engine.execution.device_side import DeviceSide, build_device_side, ready_report
from multiflora_engine.execution.graphs.cuda_graphs import choose_capture
from multiflora_engine.execution.sleep import SleepingWeights
from multiflora_engine.execution.step_sizes import sized
from multiflora_engine.execution.warm_up import compile_for_rare_adapters, warm_up
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.rotary import why_keys_stay
from multiflora_engine.models.storage.choice import choose_storage
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.offload.opening import open_offloading
from multiflora_engine.parallel.launch import Ranks, check_ranks, place_of, start_process, started_ranks
from multiflora_engine.parallel.leading import Leader
from multiflora_engine.parallel.shared_copies import SharedCopies
from multiflora_engine.protocol.config import EngineConfig, SizedConfig
from multiflora_engine.protocol.messages import Ready
from multiflora_engine.residency.adapter_loader import AdapterLoader
from multiflora_engine.residency.adapter_residency import AdapterResidency
from multiflora_engine.residency.missing_artifacts import MissingArtifacts
from multiflora_engine.sampling.device_counts import DeviceCounts
from multiflora_engine.sampling.grammar_masks import GrammarMasks, load_grammar_masks
from multiflora_engine.sampling.sampler import Sampler
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.scheduler import Scheduler
from multiflora_engine.speculation.prompt_lookup import PromptLookup, PromptLookupConfig

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""(stage, done, total): "weights" in bytes, "kv_cache" in steps and "warmup" in graphs."""


def _silent(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class BuiltEngine:
    """A loaded engine, its parts, and what it announces of itself. Filled by `assemble_engine`."""

    engine: Engine
    residency: AdapterResidency
    device_side: DeviceSide
    model: ModelConfig
    weights: ModelWeights
    base: BaseModel
    ready: Ready
    grammars: GrammarMasks | None
    """None where the model has no tokenizer that grammars could be matched with."""
    offloading: Offloading | SharedCopies | None
    """None where no copies of KV blocks are kept."""
    artifacts: MissingArtifacts
    """What it asks for where this host lacks an adapter's files."""
    leader: Leader | None = None
    """Of the other ranks that compute the model with this process; None: it does so alone."""

    def probe(self, slot: int) -> float:
        """See `probe_adapter`."""
        return probe_adapter(self.device_side.dummy, slot)

    def check_ranks(self) -> None:
        """Raises RankLost when another rank has ended: then nothing can be computed any more."""
        if self.leader is not None:
            self.leader.check()

    def call_between_layers(self, callback: Callable[[], None]) -> None:
        """A step may take minutes (a large model on few cores); the callback says meanwhile that it goes on."""
        self.device_side.decoder.between_layers = callback

    @torch.inference_mode()
    def use_idle_moment(self) -> None:
        """No request runs: a small part of what was put off until then is done."""
        if self.device_side.graphs is not None:
            try:
                self.device_side.graphs.capture_wanted()
            except torch.OutOfMemoryError as error:
                _log.warning("There is no memory for another CUDA graph; its steps run kernel by kernel. (%s)", error)

    def put_to_sleep(self) -> SleepingWeights | None:
        """The base's weights leave the device for the host, until they are woken; None on a CPU, where they are there
        already, and where they are divided among ranks, which keep theirs. No request may run meanwhile."""
        if self.weights.device.type == "cpu" or self.leader is not None:
            return None
        if self.device_side.graphs is not None:
            self.device_side.graphs.forget()
        return SleepingWeights(tensor for target in self.weights.targets().values() for tensor in target.tensors)

    def close(self) -> None:
        """Ends the threads of the adapter reader, of the grammars and of the copies of KV blocks."""
        self.residency.close()
        if self.grammars is not None:
            self.grammars.close()
        self.finish()

    def finish(self) -> None:
        """Copies of KV blocks that wait to be written are, as far as two seconds reach; and other ranks end."""
        if self.offloading is not None:
            self.offloading.close()
        if self.leader is not None:
            self.leader.close()


@dataclass(frozen=True)
class LoadedPart:
    """What one rank has of a model, or all of it. Filled by `load_model`."""

    weights: ModelWeights
    base: BaseModel
    """The whole model, as adapters see it."""
    part: BaseModel
    """What is here of it."""
    load_adapter: AdapterLoader


def build_engine(config: EngineConfig, progress: Progress = _silent) -> BuiltEngine:
    """Loads the model and makes everything ready to step. Raises ModelError for what the user can mend."""
    folder = Path(config.model_path)
    model = load_model_config(folder, config.hf_overrides).with_ends(config.eos_token_ids)
    keep_freed_memory()
    use_threads(config.num_threads, config.processes_per_host)  # first: how products are made is measured with these
    device = choose_device(config.device)
    config = sized(config, model, device_memory(device))
    # Linux grants more than there is, and kills the process that fills it; a GPU refuses.
    available = available_host_memory() // config.num_ranks if device.type == "cpu" else None
    if config.num_ranks == 1:
        return _build(config, model, device, available, progress, None)
    check_ranks(config, model, device)
    with started_ranks(config, device, available, start_process) as ranks:
        return _build(config, model.at(place_of(config, 0)), device, available, progress, ranks)


def _build(
    config: SizedConfig,
    model: ModelConfig,
    device: torch.device,
    available: int | None,
    progress: Progress,
    ranks: Ranks | None,
) -> BuiltEngine:
    loaded = load_model(config, model, device, available, partial(progress, "weights"))
    folder = Path(config.model_path)
    grammars = load_grammar_masks(config.tokenizer, folder, model.vocab_size, model.eos_token_ids)
    leader = None if ranks is None else Leader(ranks, loaded.part, loaded.load_adapter)
    store = ArtifactStore(Path(config.artifact_root), cache_bytes=config.artifact_cache_bytes)
    store.cache.make_room()
    artifacts = MissingArtifacts(store)
    with memory_errors_explained():
        return assemble_engine(
            config, model, loaded.weights, loaded.base, loaded.load_adapter, grammars, progress, leader, artifacts
        )


def load_model(
    config: EngineConfig,
    model: ModelConfig,
    device: torch.device,
    available: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> LoadedPart:
    """model: whole, or one rank's part. available: bytes of host memory that the weights may take; None on a GPU.
    Raises ModelError."""
    folder = Path(config.model_path)
    dtype = choose_dtype(config.dtype, model.dtype, device)
    storage = choose_storage(model, config.dtype, config.quantization, config.dequantize, device)
    weights = load_weights(folder, model, dtype, device, progress, available, storage)
    base = model.whole.base_model(folder.name)
    part = base if model.is_whole else model.base_model(folder.name, base.digest)
    loader = AdapterLoader(
        ArtifactStore(Path(config.artifact_root)),
        base,
        part,
        weights.base_weight,
        weights.base_bias,
        weights.is_exact,
        dtype,
        device,
        config.max_lora_rank,
        config.adapter_matrix_memory,
    )
    return LoadedPart(weights, base, part, loader)


def assemble_engine(
    config: SizedConfig,
    model: ModelConfig,
    weights: ModelWeights,
    base: BaseModel,
    load_adapter: Callable[[str], HostAdapter],
    grammars: GrammarMasks | None = None,
    progress: Progress = _silent,
    leader: Leader | None = None,
    artifacts: MissingArtifacts | None = None,
) -> BuiltEngine:
    """An engine on weights that are there already. base: whole. load_adapter: by digest, called on a thread of its own.
    leader: where model, weights and adapters are the first rank's parts. artifacts: brings what load_adapter needs;
    None: that needs none."""
    config = without_graphs(config, model, weights)
    device = weights.device
    use_device(device)
    slots, rows = pool_size(config.max_loras, config.max_lora_rank)
    pool_of = partial(SlotPool, base) if leader is None else leader.pool
    pool = pool_of(slots, rows, weights.dtype, device, config.max_lora_rank, config.adapter_matrix_memory)
    counts = DeviceCounts(config.max_num_seqs, model.vocab_size) if runs_asynchronously(device) else None
    sampler = Sampler(model.vocab_size, model.eos_token_ids, config.seed, grammars, counts)
    progress("kv_cache", 0, 1)
    capture = choose_capture(device, config.enforce_eager)
    grid = None if leader is None else leader.grid
    device_side = build_device_side(config, model, weights, pool, sampler, capture, grid)
    if leader is not None:
        device_side = leader.side(device_side)
    runner = device_side.runner
    progress("kv_cache", 1, 1)
    load = load_adapter if leader is None else leader.loads
    residency = AdapterResidency(
        pool,
        load if artifacts is None else artifacts.before(load),
        config.max_cpu_loras,
        reserved_rows=config.max_lora_rank,
        forget=_forget_nothing if leader is None else leader.loads.forget,
    )
    if artifacts is not None:
        artifacts.is_used = lambda digest: residency.state(digest) in ("slot", "loading")
    own_copies = open_copies(config, model, base, device_side.cache, device_side.max_model_len, grid)
    offloading = own_copies if leader is None or own_copies is None else leader.copies(own_copies)
    scheduler = Scheduler(
        _scheduler_config(config, model, device_side, is_compute_bound=device.type == "cpu"),
        residency,
        base.digest,
        grammars=grammars,
        runs_ahead=runner.runs_ahead,
        drafts=_prompt_lookup(config, sampler, device_side.is_asynchronous),
        tiers=offloading,
    )
    progress("warmup", 0, 1)
    if device_side.graphs is not None:
        compile_for_rare_adapters(config, model, weights, base)
    warm_up(
        device_side.dummy,
        sampler,
        pool,
        model,
        device_side.graphs,
        lambda done, total: progress("warmup", done, total),
        compiles_kernels=device_side.is_asynchronous,
        most_tokens=config.max_num_batched_tokens,
    )
    progress("warmup", 1, 1)
    return BuiltEngine(
        engine=Engine(runner, scheduler, residency, offloading, None if artifacts is None else artifacts.cache),
        residency=residency,
        device_side=device_side,
        model=model,
        weights=weights,
        base=base,
        ready=ready_report(config, model, weights, pool, device_side, base.digest),
        grammars=grammars,
        offloading=offloading,
        artifacts=artifacts or MissingArtifacts(),
        leader=leader,
    )


def without_graphs(config: SizedConfig, model: ModelConfig, weights: ModelWeights) -> SizedConfig:
    """The configuration, without graphs for a model whose steps cannot be captured."""
    # Of experts that are not all kept alike the host multiplies one by one, and asks how many tokens each gets: a graph
    # could not be replayed with others. Ranks run step by step.
    if not model.is_whole or not all(layer.mlp.is_grouped for layer in weights.layers):
        return msgspec.structs.replace(config, enforce_eager=True)
    return config


def _forget_nothing(digest: str) -> None:
    pass


def open_copies(
    config: EngineConfig,
    model: ModelConfig,
    base: BaseModel,
    cache: KVCache,
    max_model_len: int,
    grid: RankGrid | None,
) -> Offloading | None:
    """Of this process's KV blocks; see `open_offloading`. Raises ModelError."""
    depends_on_length = any(rope.kind in ("dynamic", "longrope") for rope in model.ropes)
    identity = {
        "base": base.digest,
        "computed": [config.dtype, dtype_name(cache.keys[0].dtype), config.quantization, config.dequantize],
        "length": max_model_len if depends_on_length else None,
    }
    # What was allocated on a CPU is not taken before it is written.
    unwritten = cache.num_bytes if cache.keys[0].device.type == "cpu" else 0
    available = available_host_memory() // config.processes_per_host - unwritten
    return open_offloading(config, cache, identity, available, grid)


def _prompt_lookup(config: EngineConfig, sampler: Sampler, is_asynchronous: bool) -> PromptLookup | None:
    """None on a device that may run ahead: it is given the next step before the host knows what could be looked up."""
    if is_asynchronous:
        if config.enable_prompt_lookup:
            _log.warning("Nothing is drafted by prompt lookup on this device; answers are the same.")
        return None
    wanted = PromptLookupConfig(
        is_default=config.enable_prompt_lookup,
        num_speculative_tokens=config.num_speculative_tokens,
        prompt_lookup_max=config.prompt_lookup_max,
        prompt_lookup_min=config.prompt_lookup_min,
        disable_by_batch_size=config.speculative_disable_by_batch_size,
    )
    return PromptLookup(wanted, lambda sequence: not sampler.needs_output(sequence))


def _scheduler_config(
    config: SizedConfig, model: ModelConfig, device_side: DeviceSide, is_compute_bound: bool
) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=device_side.cache.num_blocks,
        max_model_len=device_side.max_model_len,
        block_size=device_side.cache.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        num_batches=config.pipeline_parallel_size,
        max_waiting=config.max_waiting,
        is_compute_bound=is_compute_bound,
        adapter_timeout=config.adapter_timeout,
        alora_fallback=config.alora_fallback,
        enable_prefix_caching=config.enable_prefix_caching,
        eos_token_ids=frozenset(model.eos_token_ids),
        vocab_size=model.vocab_size,
        why_keys_stay=why_keys_stay(model),
    )
