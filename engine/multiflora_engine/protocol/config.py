"""The engine's configuration: frozen, torch-free, handed to the engine process as one message."""

from __future__ import annotations

from typing import Any

import msgspec

_COUNTS = (
    "max_model_len",
    "block_size",
    "kv_cache_memory",
    "kv_offload_bytes",
    "kv_offload_disk_bytes",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_waiting",
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
    "num_threads",
    "engines_per_host",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "num_speculative_tokens",
    "prompt_lookup_max",
    "prompt_lookup_min",
    "speculative_disable_by_batch_size",
)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine is started with. The server fills it from its settings of the same names, LLM from its options;
    both add the folders and what their tokenizer says."""

    # A local Hugging Face folder.
    model_path: str
    # The artifact store of `<digest>/` folders.
    artifact_root: str
    # What it lacks, gateways have, or can bring.
    asks_for_artifacts: bool = False
    # Bytes of artifacts in that folder, beyond which those that were needed longest ago go; None: none go.
    artifact_cache_bytes: int | None = None
    # Values in the place of those of the folder's config.json.
    hf_overrides: dict[str, Any] = {}
    dtype: str = "auto"
    # How keys and values are kept: auto (as dtype), int8, fp8 (as fp8_e4m3) or fp8_e5m2.
    kv_cache_dtype: str = "auto"
    device: str = "auto"
    # How linears are kept: int8, of dense weights; another method is what the checkpoint says of itself.
    quantization: str | None = None
    # Serve a quantised checkpoint's linears in dtype, instead of in their own 4 or 8 bits.
    dequantize: bool = False
    # Prompt and output tokens of the longest sequence; None: the model's own length, or as much of it as fits.
    max_model_len: int | None = None
    # Tokens of a KV block.
    block_size: int = 16
    # The share of a GPU's memory to use, above 0 and at most 1; None: by how much it has.
    gpu_memory_utilization: float | None = None
    # Bytes for KV blocks; None sizes them from the device (GPU) or a share of host memory (CPU).
    kv_cache_memory: int | None = None
    # Bytes of host memory, and a folder and bytes of it, for copies of KV blocks; None: none are kept there.
    kv_offload_bytes: int | None = None
    kv_offload_dir: str | None = None
    kv_offload_disk_bytes: int = 10 << 30
    # On a GPU, run decode steps kernel by kernel instead of as CUDA graphs.
    enforce_eager: bool = False
    # Sequences that run at the same time; None: by the device's memory and the model.
    max_num_seqs: int | None = None
    # The token budget of one step; None: by the device's memory and the model.
    max_num_batched_tokens: int | None = None
    # Sequences that may queue before new requests are refused.
    max_waiting: int = 1024
    enable_prefix_caching: bool = True
    # Adapters of rank max_lora_rank that fit on the device at once; more of lower rank do.
    max_loras: int = 8
    # The highest rank that an adapter may have.
    max_lora_rank: int = 64
    # Bytes of the device for embeddings and heads that adapters bring along, whole or some rows, all together.
    adapter_matrix_memory: int = 256 << 20
    # Adapters kept in host memory.
    max_cpu_loras: int = 64
    # Seconds for which a request waits for its adapter.
    adapter_timeout: float = 300.0
    # What a prompt that does not invoke its activated LoRA gets: an error, or the base model's answer (base).
    alora_fallback: str = "error"
    # For requests that bring none.
    seed: int = 0
    # CPU threads; None: OMP_NUM_THREADS where it is set, else this engine's part of the cores.
    num_threads: int | None = None
    # Engines that serve side by side on this machine; each takes its part of cores and host memory.
    engines_per_host: int = 1
    # Ranks that compute the model together, each a part of every layer in a process of its own (on GPUs: on one each).
    tensor_parallel_size: int = 1
    # Stages that each have some of the layers, one after the other: so many times as many ranks.
    pipeline_parallel_size: int = 1
    # What tokenizer.json says once the front end has merged the folder's other files into it; None: as it is.
    tokenizer: str | None = None
    # What ends an answer beside the model's own end tokens, from the front end's tokenizer.
    eos_token_ids: tuple[int, ...] = ()
    # Speculation by prompt lookup, for requests that do not say themselves; on a GPU nothing is drafted.
    enable_prompt_lookup: bool = False
    # Tokens of the longest draft.
    num_speculative_tokens: int = 8
    # Tokens of the n-grams that are looked up, at most and at least.
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 2
    # Running sequences beyond which none is drafted for: full batches leave no part of a step unused.
    speculative_disable_by_batch_size: int = 8

    @property
    def num_ranks(self) -> int:
        """Processes that compute the model together."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def processes_per_host(self) -> int:
        """That share the machine's cores and host memory."""
        return self.engines_per_host * self.num_ranks

    def __post_init__(self) -> None:
        """Raises ValueError for sizes with which nothing could ever run."""
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.prompt_lookup_min > self.prompt_lookup_max:
            most = f"prompt_lookup_max ({self.prompt_lookup_max})"
            raise ValueError(f"prompt_lookup_min must be at most {most}, got {self.prompt_lookup_min}")
        if self.adapter_matrix_memory < 0:
            raise ValueError(f"adapter_matrix_memory must be at least 0, got {self.adapter_matrix_memory}")
        if self.alora_fallback not in ("error", "base"):
            raise ValueError(f"alora_fallback must be error or base, got {self.alora_fallback!r}")
        if not self.adapter_timeout > 0:
            raise ValueError(f"adapter_timeout must be above 0, got {self.adapter_timeout}")
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, got {share}")


class SizedConfig(EngineConfig, frozen=True, kw_only=True):
    """A configuration whose steps have sizes, by default a CPU's. `sized` fills it for the device, the share of its
    memory, too, where that is a GPU."""

    max_num_seqs: int = 64
    # At least max_num_seqs, so that every decode fits.
    max_num_batched_tokens: int = 2048
