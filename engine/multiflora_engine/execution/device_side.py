"""What lies on the device and runs there, put together: KV cache, decoder, decode graphs, runner. Knows no queues."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_adapters.slots import SlotPool
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.rank_group import RankGrid
from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.device import choose_kv_dtype, dtype_name, runs_asynchronously
from multiflora_engine.execution.dummy_batch import Dummy, DummyPass
from multiflora_engine.execution.executor import StepExecutor
from multiflora_engine.execution.graphs.decode_graphs import Capture, DecodeGraphs
from multiflora_engine.execution.kv_memory import allocate_kv_cache, size_kv_cache
from multiflora_engine.execution.memory_profile import step_bytes
from multiflora_engine.execution.runner import DeviceRunner
from multiflora_engine.execution.step_plan import StepPlanner
from multiflora_engine.execution.step_sizes import graph_sizes, mixed_sizes
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.rotary import model_tables, why_keys_stay
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import SizedConfig
from multiflora_engine.protocol.messages import Ready, StageMemory
from multiflora_engine.sampling.sampler import Sampler


@dataclass(frozen=True)
class DeviceSide:
    """What lies on the device and runs there. Filled by `build_device_side`."""

    runner: DeviceRunner
    executor: StepExecutor
    """Of this rank, where the runner's may be that of all."""
    decoder: Decoder
    cache: KVCache
    max_model_len: int
    """The longest sequence, in tokens, that the cache and the rotary tables have room for."""
    graphs: DecodeGraphs | None
    """None where decode steps run kernel by kernel."""
    dummy: Dummy
    is_asynchronous: bool
    """See `runs_asynchronously`."""
    stages: tuple[StageMemory, ...]
    """What each takes, of all its ranks; one, where nothing is divided into stages."""


def build_device_side(
    config: SizedConfig,
    model: ModelConfig,
    weights: ModelWeights,
    pool: SlotPool,
    sampler: Sampler,
    capture: Capture | None = None,
    ranks: RankGrid | None = None,
) -> DeviceSide:
    """KV cache, decoder and runner on the weights' device. The weights and the pool must be there already, so that what
    is left of the device's memory is known.

    capture: how the device records decode steps; None: it does not. ranks: where the model is one's part, all of which
    call this at once: their caches get as many blocks as fit on each. Raises ModelError when the KV cache that the
    configuration asks for does not fit.
    """
    device, dtype = weights.device, weights.dtype
    measured = device.type == "cuda" and config.kv_cache_memory is None
    # Adapters' own embeddings and heads are allocated as they come: the cache must leave their room.
    spare = step_bytes(config, model, weights, ranks) + config.adapter_matrix_memory if measured else 0
    kv_dtype = choose_kv_dtype(config.kv_cache_dtype, weights.kv_dtype)
    size = size_kv_cache(config, model, kv_dtype, device, spare)
    if ranks is not None:
        size = size.with_blocks(min(ranks.values_of_all(size.num_blocks)), config.block_size)
    cache = allocate_kv_cache(model, size.num_blocks, config.block_size, kv_dtype, device)
    decoder = Decoder(model, weights, model_tables(model, size.max_model_len, device), pool, ranks)
    staging = Staging(device)
    feedback = TokenFeedback(config.max_num_seqs, device, None if ranks is None else ranks.shards)
    num_stages, is_asynchronous = config.pipeline_parallel_size, runs_asynchronously(device)
    graphs = None
    if capture is not None:
        graphs = DecodeGraphs(
            capture,
            lambda batch: decoder.forward(batch, cache),
            staging,
            feedback,
            lambda: pool.layout,
            sizes=graph_sizes(config.max_num_seqs),
            mixed=mixed_sizes(config.max_num_batched_tokens),
            max_blocks=-(-size.max_model_len // config.block_size),
            max_segments=pool.num_slots,
            device=device,
        )
    executor = StepExecutor(decoder, cache, staging, feedback, sampler.prompt_logprobs, graphs)
    runner = DeviceRunner(
        StepPlanner(config.block_size, model.vocab_size),
        executor,
        sampler,
        # Stages have other batches to compute while this one's tokens come back.
        runs_ahead=is_asynchronous and num_stages == 1,
        num_stages=num_stages,
    )
    dummy = DummyPass(decoder, model, config.block_size, size.max_model_len, device, dtype, kv_dtype)
    stages = _stages(model, weights, cache, ranks)
    return DeviceSide(runner, executor, decoder, cache, size.max_model_len, graphs, dummy, is_asynchronous, stages)


def _stages(
    model: ModelConfig, weights: ModelWeights, cache: KVCache, ranks: RankGrid | None
) -> tuple[StageMemory, ...]:
    if ranks is None:
        return (StageMemory(model.num_layers, weights.num_bytes, cache.num_bytes),)
    layers, of_weights, of_caches = (
        ranks.of_stages(value) for value in (len(model.layers), weights.num_bytes, cache.num_bytes)
    )
    return tuple(
        StageMemory(own_layers[0], sum(own_weights), sum(own_caches))
        for own_layers, own_weights, own_caches in zip(layers, of_weights, of_caches, strict=True)
    )


def ready_report(
    config: SizedConfig, model: ModelConfig, weights: ModelWeights, pool: SlotPool, side: DeviceSide, base_digest: str
) -> Ready:
    """What the engine announces of itself: sizes as they were chosen on this machine."""
    return Ready(
        device=str(weights.device),
        dtype=dtype_name(weights.dtype),
        num_blocks=side.cache.num_blocks,
        block_size=side.cache.block_size,
        max_model_len=side.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        gpu_memory_utilization=config.gpu_memory_utilization,
        has_graphs=side.graphs is not None,
        lora_slots=pool.num_slots,
        lora_rows=pool.num_rows,
        kv_bytes=sum(stage.kv_bytes for stage in side.stages),
        weight_bytes=sum(stage.weight_bytes for stage in side.stages),
        why_keys_stay=why_keys_stay(model),
        base_digest=base_digest,
        stages=side.stages,
    )
