"""The paged KV cache: its memory, and how large it can be on this machine. Knows no sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_engine.core.host_memory import available_host_memory, host_memory
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.protocol.config import SizedConfig
from multiflora_kernels.attention.quantised_cache import bytes_per_head, cache_shape, is_quantised

_CPU_SHARE = 0.25
_CPU_CAP = 4 << 30
_CPU_LIMIT = 0.8
_GIB = 1 << 30


@dataclass(frozen=True)
class CacheSize:
    """What fits into this machine's memory. Filled by `size_kv_cache`."""

    num_blocks: int
    max_model_len: int
    """Tokens of the longest sequence: as configured or the model's own, if the blocks hold as many."""

    def with_blocks(self, num_blocks: int, block_size: int) -> CacheSize:
        """No more than these."""
        return CacheSize(num_blocks, min(self.max_model_len, num_blocks * block_size))


def allocate_kv_cache(
    model: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> KVCache:
    """dtype: of the cache (see `choose_kv_dtype`)."""
    shape = cache_shape(num_blocks, model.num_kv_heads, block_size, model.head_dim, dtype)
    try:
        caches = [torch.empty(shape, dtype=dtype, device=device) for _ in range(2 * len(model.layers))]
    except (MemoryError, RuntimeError) as error:
        size = num_blocks * bytes_per_block(model, block_size, dtype)
        raise ModelError(
            f"A KV cache of {size} bytes does not fit into the memory of {device}. Give a smaller --kv-cache-memory."
        ) from error
    keys, values = tuple(caches[: len(model.layers)]), tuple(caches[len(model.layers) :])
    return KVCache(keys, values, num_blocks, block_size, is_quantised(keys[0]))


def bytes_per_block(model: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    return 2 * len(model.layers) * model.num_kv_heads * block_size * bytes_per_head(model.head_dim, dtype)


def size_kv_cache(
    config: SizedConfig, model: ModelConfig, dtype: torch.dtype, device: torch.device, step_bytes: int = 0
) -> CacheSize:
    """How many blocks, and the model's length. dtype: of the cache. step_bytes: of a GPU's memory, what steps need (see
    memory_profile.py).

    A length that was asked for gets room for at least one sequence, or a ModelError says what to change; without one
    the model's own length is taken, or as much of it as fits.
    """
    wanted = config.max_model_len or model.max_position_embeddings
    if wanted > model.ropes[0].longest:
        raise ModelError(
            f"--max-model-len {wanted} is more than the model's {model.ropes[0].longest} tokens. "
            "Choose less, or extend the model with a RoPE scaling in --hf-overrides."
        )
    block_bytes = bytes_per_block(model, config.block_size, dtype)
    needed = -(-wanted // config.block_size)
    # Twice what can run at once, so that the prefixes of finished requests stay cached.
    useful = 2 * needed * config.max_num_seqs
    is_asked = config.max_model_len is not None
    if config.kv_cache_memory is not None:
        memory = config.kv_cache_memory
        if device.type == "cpu":
            _require_host_memory(memory, config.processes_per_host)
    elif device.type == "cpu":
        memory = _host_memory(useful * block_bytes, is_asked * needed * block_bytes, config.processes_per_host)
    else:
        assert config.gpu_memory_utilization is not None, "`sized` chooses it on a GPU"
        memory = _gpu_memory(config.gpu_memory_utilization, device) - step_bytes
    num_blocks = max(0, memory) // block_bytes
    if num_blocks < (needed if is_asked else 1):
        raise ModelError(_does_not_fit(wanted, needed * block_bytes, num_blocks * block_bytes, device))
    return CacheSize(num_blocks, min(wanted, num_blocks * config.block_size))


def _host_memory(useful: int, needed: int, processes: int) -> int:
    """Bytes for the cache. useful: more would never be used; needed: less than this is of no use. processes: that share
    what is available."""
    available = available_host_memory() // processes
    modest = min(useful, int(available * _CPU_SHARE), _CPU_CAP)
    return max(modest, min(needed, int(available * _CPU_LIMIT)))


def _require_host_memory(asked: int, engines: int) -> None:
    """Linux grants more than there is, and kills the process once it is written to: refused before that. engines: each
    of which takes as much; those that run have taken theirs of what was available."""
    available, all_memory = available_host_memory(), host_memory()
    if asked <= available and asked * engines <= all_memory:
        return
    if asked > available:
        problem = f"for {asked / _GIB:.2f} GiB, and {available / _GIB:.2f} GiB are available of"
    else:
        problem = f"{engines} times for {asked / _GIB:.2f} GiB, and {all_memory / _GIB:.2f} GiB are all of"
    raise ModelError(
        f"--kv-cache-memory asks {problem} the machine's memory or the container's limit. "
        "Give a smaller --kv-cache-memory, or free memory."
    )


def _gpu_memory(utilization: float, device: torch.device) -> int:
    """Bytes that this share of the GPU's memory leaves beside what is taken now (weights, LoRA slots, others' data)."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(total * utilization) - (total - free)


def _does_not_fit(wanted: int, needed: int, given: int, device: torch.device) -> str:
    advice = "lower --max-model-len, or raise --kv-cache-memory"
    if device.type != "cpu":
        advice += " or --gpu-memory-utilization"
    return (
        f"The KV cache of one sequence of {wanted} tokens takes {needed / _GIB:.2f} GiB; there is room for "
        f"{given / _GIB:.2f} GiB: {advice}."
    )
