"""Puts one engine together from its configuration: weights, slots, KV cache, scheduler, sampler. Used by the engine
process and by the offline `LLM`; knows the parts' constructors and nothing of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.device_copies import pinned
from multiflora_adapters.mix import mix_parts
from multiflora_adapters.mixing import mix_adapters
from multiflora_adapters.slots import SlotPool, pool_size
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import HostAdapter, load_adapter
from multiflora_engine.core.grammar_source import GrammarError
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.transfers import Staging
from multiflora_engine.engine import Engine
from multiflora_engine.execution.adapter_probe import probe_adapter
from multiflora_engine.execution.cuda_graphs import choose_capture
from multiflora_engine.execution.decode_graphs import Capture, DecodeGraphs, graph_sizes
from multiflora_engine.execution.device import (
    choose_device,
    choose_dtype,
    dtype_name,
    runs_asynchronously,
    use_device,
    use_threads,
)
from multiflora_engine.execution.dummy_batch import DummyPass
from multiflora_engine.execution.executor import StepExecutor
from multiflora_engine.execution.kv_memory import allocate_kv_cache, size_kv_cache
from multiflora_engine.execution.memory_profile import step_bytes
from multiflora_engine.execution.runner import DeviceRunner
from multiflora_engine.execution.step_plan import StepPlanner
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_engine.execution.warm_up import warm_up
from multiflora_engine.models.config import ModelConfig, load_model_config
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.rotary import rotary_tables
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import Ready
from multiflora_engine.residency.adapter_residency import AdapterResidency
from multiflora_engine.sampling.grammar_masks import GrammarMasks
from multiflora_engine.sampling.grammars import GrammarVocabulary
from multiflora_engine.sampling.sampler import Sampler
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.scheduler import Scheduler

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""(stage, done, total): "weights" in bytes, "kv_cache" in steps and "warmup" in graphs."""


def _silent(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class DeviceSide:
    """What lies on the device and runs there. Filled by `build_device_side`."""

    runner: DeviceRunner
    decoder: Decoder
    cache: KVCache
    max_model_len: int
    """The longest sequence, in tokens, that the cache and the rotary tables have room for."""
    graphs: DecodeGraphs | None
    """None where decode steps run kernel by kernel."""
    dummy: DummyPass


@dataclass(frozen=True)
class BuiltEngine:
    """A loaded engine, its parts, and what it announces of itself. Filled by `assemble_engine`."""

    engine: Engine
    residency: AdapterResidency
    device_side: DeviceSide
    model: ModelConfig
    base: BaseModel
    ready: Ready
    grammars: GrammarMasks | None
    """None where the model has no tokenizer that grammars could be matched with."""

    def probe(self, slot: int) -> float:
        """See `probe_adapter`."""
        return probe_adapter(self.device_side.dummy, slot)

    def call_between_layers(self, callback: Callable[[], None]) -> None:
        """A step may take minutes (a large model on few cores); the callback says meanwhile that it goes on."""
        self.device_side.decoder.between_layers = callback

    def close(self) -> None:
        """Ends the threads of the adapter reader and of the grammars."""
        self.residency.close()
        if self.grammars is not None:
            self.grammars.close()


def build_engine(config: EngineConfig, progress: Progress = _silent) -> BuiltEngine:
    """Loads the model and makes everything ready to step. Raises ModelError for what the user can mend."""
    folder = Path(config.model_path)
    model = load_model_config(folder)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, model.dtype, device)
    weights = load_weights(folder, model, dtype, device, lambda done, total: progress("weights", done, total))
    base = model.base_model(folder.name)
    grammars = _grammars(folder, model)
    return assemble_engine(config, model, weights, base, _adapter_loader(config, base, weights), grammars, progress)


def assemble_engine(
    config: EngineConfig,
    model: ModelConfig,
    weights: ModelWeights,
    base: BaseModel,
    load_adapter: Callable[[str], HostAdapter],
    grammars: GrammarMasks | None = None,
    progress: Progress = _silent,
) -> BuiltEngine:
    """An engine on weights that are there already. load_adapter: by digest, called on a thread of its own."""
    device = weights.device
    use_device(device)
    slots, rows = pool_size(config.max_loras, config.max_lora_rank)
    pool = SlotPool(base, slots, rows, weights.dtype, device, config.max_lora_rank)
    sampler = Sampler(model.vocab_size, model.eos_token_ids, config.seed, grammars)
    progress("kv_cache", 0, 1)
    device_side = build_device_side(config, model, weights, pool, sampler, choose_capture(device, config.enforce_eager))
    runner = device_side.runner
    progress("kv_cache", 1, 1)
    residency = AdapterResidency(pool, load_adapter, config.max_cpu_loras, reserved_rows=config.max_lora_rank)
    scheduler = Scheduler(
        _scheduler_config(config, model, device_side),
        residency,
        base.digest,
        grammars=grammars,
        may_run_ahead=lambda sequence: runner.runs_ahead and not sampler.needs_last_token(sequence),
    )
    progress("warmup", 0, 1)
    warm_up(
        device_side.dummy,
        sampler,
        pool,
        model,
        device_side.graphs,
        lambda done, total: progress("warmup", done, total),
        compiles_kernels=runner.runs_ahead,
    )
    progress("warmup", 1, 1)
    return BuiltEngine(
        engine=Engine(runner, scheduler, residency),
        residency=residency,
        device_side=device_side,
        model=model,
        base=base,
        ready=_ready(config, weights, pool, device_side),
        grammars=grammars,
    )


def build_device_side(
    config: EngineConfig,
    model: ModelConfig,
    weights: ModelWeights,
    pool: SlotPool,
    sampler: Sampler,
    capture: Capture | None = None,
) -> DeviceSide:
    """KV cache, decoder and runner on the weights' device. The weights and the pool must be there already, so that what
    is left of the device's memory is known.

    capture: how the device records decode steps; None: it does not. Raises ModelError when the KV cache that the
    configuration asks for does not fit.
    """
    use_threads(config.num_threads)
    device, dtype = weights.device, weights.dtype
    measured = device.type == "cuda" and config.kv_cache_memory is None
    spare = step_bytes(config, model, weights) if measured else 0
    size = size_kv_cache(config, model, dtype, device, spare)
    cache = allocate_kv_cache(model, size.num_blocks, config.block_size, dtype, device)
    decoder = Decoder(model, weights, rotary_tables(model.rope, size.max_model_len, device), pool.site)
    staging = Staging(device)
    feedback = TokenFeedback(config.max_num_seqs, device)
    graphs = None
    if capture is not None:
        graphs = DecodeGraphs(
            capture,
            lambda batch: decoder.forward(batch, cache),
            staging,
            feedback,
            lambda: pool.layout,
            sizes=graph_sizes(config.max_num_seqs),
            max_blocks=-(-size.max_model_len // config.block_size),
            max_segments=pool.num_slots,
            device=device,
        )
    runner = DeviceRunner(
        StepPlanner(config.block_size, model.vocab_size),
        StepExecutor(decoder, cache, staging, feedback, sampler.prompt_logprobs, graphs),
        sampler,
        runs_ahead=runs_asynchronously(device),
    )
    dummy = DummyPass(decoder, model, config.block_size, size.max_model_len, device, dtype)
    return DeviceSide(runner, decoder, cache, size.max_model_len, graphs, dummy)


def _grammars(folder: Path, model: ModelConfig) -> GrammarMasks | None:
    """None where there is no tokenizer that grammars could be matched with; everything else works without."""
    try:
        definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return GrammarMasks(GrammarVocabulary(definition, model.vocab_size, model.eos_token_ids))
    except OSError:
        return None
    except GrammarError as error:
        _log.warning("There is no structured output: %s", error)
        return None


def _adapter_loader(config: EngineConfig, base: BaseModel, weights: ModelWeights) -> Callable[[str], HostAdapter]:
    """Reads versions from the artifact store, and mixes of them."""
    store = ArtifactStore(Path(config.artifact_root))

    def load_version(digest: str, dtype: torch.dtype) -> HostAdapter:
        return load_adapter(store.path(digest), base, dtype, weights.base_weight, digest=digest)

    def load(digest: str) -> HostAdapter:
        parts = mix_parts(digest)
        if parts is None:
            return load_version(digest, weights.dtype)
        loaded = [(load_version(part.digest, torch.float32), part.weight) for part in parts]
        return mix_adapters(digest, loaded, base, weights.dtype, config.max_lora_rank)

    return load if weights.device.type == "cpu" else lambda digest: pinned(load(digest))


def _scheduler_config(config: EngineConfig, model: ModelConfig, device_side: DeviceSide) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=device_side.cache.num_blocks,
        max_model_len=device_side.max_model_len,
        block_size=device_side.cache.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max(config.max_num_batched_tokens, config.max_num_seqs),
        max_waiting=config.max_waiting,
        adapter_timeout=config.adapter_timeout,
        enable_prefix_caching=config.enable_prefix_caching,
        eos_token_ids=frozenset(model.eos_token_ids),
        vocab_size=model.vocab_size,
    )


def _ready(config: EngineConfig, weights: ModelWeights, pool: SlotPool, device_side: DeviceSide) -> Ready:
    return Ready(
        device=str(weights.device),
        dtype=dtype_name(weights.dtype),
        num_blocks=device_side.cache.num_blocks,
        block_size=device_side.cache.block_size,
        max_model_len=device_side.max_model_len,
        max_num_seqs=config.max_num_seqs,
        lora_slots=pool.num_slots,
        lora_rows=pool.num_rows,
        kv_bytes=device_side.cache.num_bytes,
        weight_bytes=weights.num_bytes,
    )
