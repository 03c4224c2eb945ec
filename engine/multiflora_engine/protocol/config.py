"""The engine's configuration: frozen, torch-free, handed to the engine process as one message."""

from __future__ import annotations

import msgspec

_COUNTS = (
    "max_model_len",
    "block_size",
    "kv_cache_memory",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_waiting",
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
    "num_threads",
)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """model_path: local Hugging Face folder. artifact_root: the artifact store of `<digest>/` folders.

    kv_cache_memory: bytes for KV blocks; None sizes it from the device (GPU) or a share of host memory (CPU).
    enforce_eager: on a GPU, run decode steps kernel by kernel instead of as CUDA graphs.
    max_loras: adapters of rank max_lora_rank that fit on the device at once; more of lower rank do.
    max_cpu_loras: adapters kept in host memory. adapter_timeout: seconds for which a request waits for its adapter.
    max_num_batched_tokens: the token budget of one step.
    max_waiting: requests that may queue before new ones are refused. seed: for requests that bring none.
    tokenizer: what tokenizer.json says once the folder's other files are merged; None: tokenizer.json as it is. Filled
    by the front end, which merges them. eos_token_ids: what ends an answer beside the model's own end tokens; filled
    by the front end from its tokenizer.
    """

    model_path: str
    artifact_root: str
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    kv_cache_memory: int | None = None
    enforce_eager: bool = False
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_waiting: int = 1024
    enable_prefix_caching: bool = True
    max_loras: int = 8
    max_lora_rank: int = 64
    max_cpu_loras: int = 64
    adapter_timeout: float = 300.0
    seed: int = 0
    num_threads: int | None = None
    tokenizer: str | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for sizes with which nothing could ever run."""
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.adapter_timeout > 0:
            raise ValueError(f"adapter_timeout must be above 0, got {self.adapter_timeout}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, got {self.gpu_memory_utilization}")
