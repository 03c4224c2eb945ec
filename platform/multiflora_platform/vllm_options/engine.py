"""Options about the engine: devices, KV cache, scheduling, adapters, speculation, compilation."""

from __future__ import annotations

from collections.abc import Mapping

from multiflora_platform.vllm_options.cache_events import cache_events
from multiflora_platform.vllm_options.drafts import is_prompt_lookup, speculation
from multiflora_platform.vllm_options.rules import (
    Option,
    acts,
    adapters,
    count,
    gibibytes,
    harmless,
    one_only,
    partly,
    refused,
    switches,
)

_WHOLE_CONTEXTS = (
    "ranks divide layers, not contexts; leave it at 1, and see --tensor-parallel-size and --pipeline-parallel-size"
)
_MORE_SERVERS = (
    "the server's engines are on this machine, see --replicas; start several servers that share a --database-url"
)
_OWN_ENGINES = "the server's engines are processes of this machine"
_NO_WORKERS = "the engine starts the processes of its ranks by itself"
_NO_EXPERT_RANKS = "every rank has a part of each expert"
_NO_COMPILE = "nothing is compiled by torch.compile; --enforce-eager does without CUDA graphs"
_GRAPHS = "decode graphs cover sequences of every length"
_EXACT = "a draft is accepted where the model chooses the same"
_NO_DRAFT_MODEL = "drafts are looked up in the text, which needs no model"
_NO_PROMPT_ADAPTER = "adapters are LoRA; leave it out"
_CHUNKS = "prompts are always computed in chunks that fit --max-num-batched-tokens"
_OVERLAP = "a step is always prepared while the one before it runs"

_PARALLEL: Mapping[str, Option] = {
    "tensor_parallel_size": acts("tensor_parallel_size", count, short=("-tp",)),
    "pipeline_parallel_size": acts("pipeline_parallel_size", count, short=("-pp",)),
    "decode_context_parallel_size": one_only(_WHOLE_CONTEXTS, "-dcp"),
    "prefill_context_parallel_size": one_only(_WHOLE_CONTEXTS, "-pcp"),
    "data_parallel_size": acts("replicas", count, short=("-dp",)),
    "data_parallel_size_local": one_only(_MORE_SERVERS, "-dpl"),
    "data_parallel_rank": refused(_MORE_SERVERS, "0", short=("-dpn",)),
    "data_parallel_start_rank": refused(_MORE_SERVERS, "0", short=("-dpr",)),
    "data_parallel_address": harmless(_OWN_ENGINES, short=("-dpa",)),
    "data_parallel_rpc_port": harmless(_OWN_ENGINES, short=("-dpp",)),
    "data_parallel_backend": harmless(_OWN_ENGINES, "mp", short=("-dpb",)),
    "data_parallel_hybrid_lb": refused(_MORE_SERVERS, shape="switch", short=("-dph",)),
    "data_parallel_external_lb": refused(_MORE_SERVERS, shape="switch", short=("-dpe",)),
    "nnodes": one_only(_MORE_SERVERS),
    "node_rank": refused(_MORE_SERVERS, "0"),
    "master_addr": harmless(_OWN_ENGINES),
    "master_port": harmless(_OWN_ENGINES),
    "headless": refused(_MORE_SERVERS, shape="switch"),
    "distributed_executor_backend": partly(
        ("ray",), _NO_WORKERS, "the engine is one process of this server; leave it out", "mp", "uni"
    ),
    "worker_use_ray": harmless(_NO_WORKERS, shape="switch"),
    "engine_use_ray": harmless(_NO_WORKERS, shape="switch"),
    "ray_workers_use_nsight": harmless(_NO_WORKERS, shape="switch"),
    "worker_cls": refused("the engine is built in; leave it out", "auto"),
    "worker_extension_cls": refused("the engine is built in; leave it out"),
    "max_parallel_loading_workers": harmless(_NO_WORKERS),
    "disable_custom_all_reduce": harmless("ranks sum by NCCL, on a CPU by gloo", shape="switch"),
    "disable_nccl_for_dp_synchronization": harmless("replicas do not wait for each other", shape="switch"),
    "enable_expert_parallel": harmless(_NO_EXPERT_RANKS, shape="switch", short=("-ep",)),
    "enable_eplb": harmless(_NO_EXPERT_RANKS, shape="switch"),
    "eplb_config": harmless(_NO_EXPERT_RANKS),
    "expert_placement_strategy": harmless(_NO_EXPERT_RANKS),
    "all2all_backend": harmless(_NO_EXPERT_RANKS),
    "enable_dbo": harmless("a step is one batch", shape="switch"),
}

_CACHE: Mapping[str, Option] = {
    "kv_cache_memory_bytes": acts("kv_cache_memory", count),
    "kv_cache_dtype": acts("kv_cache_dtype", lambda value: str(value).lower()),
    "calculate_kv_scales": harmless("each token's keys and values bring their own scales", shape="switch"),
    "swap_space": acts("kv_offload_bytes", gibibytes, "0"),
    "preemption_mode": harmless("a preempted sequence starts again on what is cached of it", "recompute"),
    "cpu_offload_gb": refused("weights stay on the device; choose a smaller dtype or model", "0"),
    "kv_offloading_size": acts("kv_offload_bytes", gibibytes, "0"),
    "kv_offloading_backend": harmless("the engine itself copies KV blocks to host memory"),
    "num_gpu_blocks_override": refused("blocks are counted in bytes; give --kv-cache-memory BYTES instead"),
    "prefix_caching_hash_algo": harmless("blocks are known by a 256-bit BLAKE2b hash, which is safe against forgery"),
    "kv_sharing_fast_prefill": harmless("no supported model shares KV between layers", shape="switch"),
    "mamba_cache_dtype": harmless("no supported model has such layers", "auto"),
    "mamba_ssm_cache_dtype": harmless("no supported model has such layers", "auto"),
    "mamba_block_size": harmless("no supported model has such layers"),
    "use_v2_block_manager": harmless("there is one block manager", "true", shape="switch"),
    "disable_hybrid_kv_cache_manager": harmless("all layers share one kind of block", shape="switch"),
    "kv_transfer_config": refused("KV blocks are not sent to other engines; leave it out"),
    "ec_transfer_config": refused("KV blocks are not sent to other engines; leave it out"),
    "kv_events_config": Option(setting="cache_events_zmq", convert=cache_events, unfolds=True),
}

_SCHEDULING: Mapping[str, Option] = {
    "max_num_batched_tokens": acts("max_num_batched_tokens", count),
    "max_num_seqs": acts("max_num_seqs", count),
    "enable_chunked_prefill": harmless(_CHUNKS, "true", shape="switch"),
    "disable_chunked_mm_input": harmless("models read text alone", shape="switch"),
    "max_num_partial_prefills": harmless(_CHUNKS, "1"),
    "max_long_partial_prefills": harmless(_CHUNKS, "1"),
    "long_prefill_token_threshold": harmless(_CHUNKS, "0"),
    "scheduling_policy": harmless("a request's priority always counts; equals come in order", "priority"),
    "scheduler_cls": refused("the scheduler is built in; leave it out"),
    "scheduler_delay_factor": harmless("a prompt starts as soon as there is room", "0"),
    "num_scheduler_steps": harmless(_OVERLAP, "1"),
    "multi_step_stream_outputs": harmless(_OVERLAP, "true", shape="switch"),
    "async_scheduling": harmless(_OVERLAP, "true", shape="switch"),
    "disable_async_output_proc": harmless(_OVERLAP, shape="switch"),
    "stream_interval": harmless("each step's tokens are sent at once", "1"),
    "num_lookahead_slots": harmless("drafts take the blocks that are free", "0"),
}

_ADAPTERS: Mapping[str, Option] = {
    "lora_modules": acts("lora_modules", adapters, shape="values"),
    "enable_lora": switches("enable_lora"),
    "enable_lora_bias": harmless("adapters with biases are always served", "true", shape="switch"),
    "lora_extra_vocab_size": harmless("an adapter keeps the base's vocabulary"),
    "lora_dtype": harmless("adapters have the base's dtype", "auto"),
    "long_lora_scaling_factors": refused("an adapter has the base's rotary scaling; leave it out"),
    "fully_sharded_loras": harmless("adapters are divided as their linears are", shape="switch"),
    "default_mm_loras": refused("models read text alone; name an adapter as the request's model"),
    "enable_prompt_adapter": refused(_NO_PROMPT_ADAPTER, shape="switch"),
    "prompt_adapters": refused(_NO_PROMPT_ADAPTER, shape="values"),
    "max_prompt_adapters": harmless("there are no prompt adapters"),
    "max_prompt_adapter_token": harmless("there are no prompt adapters"),
}

_SPECULATION: Mapping[str, Option] = {
    "speculative_config": Option(setting="enable_prompt_lookup", convert=speculation, unfolds=True, short=("-sc",)),
    "speculative_model": acts("enable_prompt_lookup", is_prompt_lookup),
    "num_speculative_tokens": acts("num_speculative_tokens", count, "0"),
    "speculative_model_quantization": harmless(_NO_DRAFT_MODEL),
    "speculative_draft_tensor_parallel_size": harmless(_NO_DRAFT_MODEL, short=("-spec-draft-tp",)),
    "speculative_max_model_len": harmless("drafts have the length of the text"),
    "speculative_disable_by_batch_size": acts("speculative_disable_by_batch_size", count),
    "speculative_disable_mqa_scorer": harmless("a draft is verified in one step", shape="switch"),
    "ngram_prompt_lookup_max": acts("prompt_lookup_max", count),
    "ngram_prompt_lookup_min": acts("prompt_lookup_min", count),
    "spec_decoding_acceptance_method": harmless(_EXACT),
    "typical_acceptance_sampler_posterior_threshold": harmless(_EXACT),
    "typical_acceptance_sampler_posterior_alpha": harmless(_EXACT),
    "disable_logprobs_during_spec_decoding": harmless("log-probabilities come with every token", shape="switch"),
}

_COMPILATION: Mapping[str, Option] = {
    "compilation_config": harmless(_NO_COMPILE, "0", short=("-O", "-cc")),
    "optimization_level": harmless(_NO_COMPILE),
    "max_seq_len_to_capture": harmless(_GRAPHS),
    "max_context_len_to_capture": harmless(_GRAPHS),
    "cuda_graph_sizes": harmless("graphs are made for the sizes up to --max-num-seqs", shape="values"),
    "cudagraph_capture_sizes": harmless("graphs are made for the sizes up to --max-num-seqs", shape="values"),
    "max_cudagraph_capture_size": harmless("graphs are made for the sizes up to --max-num-seqs"),
    "attention_backend": harmless("each device has one attention kernel", "auto"),
    "attention_config": harmless("each device has one attention kernel", short=("-ac",)),
    "disable_cascade_attn": harmless("prefixes are shared where that is faster", shape="switch"),
    "additional_config": harmless("it is for devices that are not served"),
    "profiler_config": harmless("the engine has no profiler of its own; `multiflora bench` measures it"),
    "weight_transfer_config": refused("weights are read from the model's folder alone; leave it out"),
}

ENGINE: Mapping[str, Option] = {
    **_PARALLEL,
    **_CACHE,
    **_SCHEDULING,
    **_ADAPTERS,
    **_SPECULATION,
    **_COMPILATION,
}
