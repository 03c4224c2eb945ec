"""The engine's configuration: frozen, torch-free, handed to the engine process as one message."""

from __future__ import annotations

import msgspec


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """model_path: local Hugging Face folder. artifact_root: the artifact store of `<digest>/` folders.

    kv_cache_memory: bytes for KV blocks; None sizes it from the device (GPU) or a share of host memory (CPU).
    max_loras: adapters of rank max_lora_rank that fit on the device at once; more of lower rank do.
    max_cpu_loras: adapters kept in host memory. max_num_batched_tokens: the token budget of one step.
    max_waiting: requests that may queue before new ones are refused. seed: for requests that bring none.
    """

    model_path: str
    artifact_root: str
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    kv_cache_memory: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_waiting: int = 1024
    enable_prefix_caching: bool = True
    max_loras: int = 8
    max_lora_rank: int = 64
    max_cpu_loras: int = 64
    seed: int = 0
    num_threads: int | None = None
