"""Options about the model: where it comes from, how its files and its text are read, what it may generate."""

from __future__ import annotations

from collections.abc import Mapping

from multiflora_platform.vllm_options.rules import (
    Option,
    acts,
    count,
    dtype_name,
    harmless,
    json_object,
    mapping,
    number,
    partly,
    refused,
    words,
)

_NO_CODE = "code that comes with a model or a client is never run"
_DOWNLOADS = "only the files that a model needs are fetched, and they are read once"

MODEL: Mapping[str, Option] = {
    "model": acts("model", str),
    "served_model_name": acts("served_model_name", words, shape="values"),
    "tokenizer": acts("tokenizer", str),
    "tokenizer_mode": partly(
        ("slow",),
        "tokenizer.json, or what a slow vocabulary is converted to, gives the same ids",
        "tokenizers are transformers' own, converted where there is no tokenizer.json; leave it at auto",
        "auto",
        "hf",
    ),
    "skip_tokenizer_init": harmless(
        "the tokenizer is always loaded; prompts of token ids do not need it", shape="switch"
    ),
    "trust_remote_code": harmless(f"{_NO_CODE}, and supported models need none", shape="switch"),
    "revision": acts("revision", str),
    "code_revision": harmless(_NO_CODE),
    "tokenizer_revision": acts("tokenizer_revision", str),
    "hf_token": acts("hf_token", str, "true", shape="optional"),
    "download_dir": acts("download_dir", str),
    "load_format": partly(
        ("fastsafetensors", "runai_streamer", "instanttensor"),
        "safetensors files are mapped into memory and read as usual",
        "only safetensors files are read, since others may hold code or no weights; save the model as safetensors, "
        ".bin files with multiflora models convert",
        "auto",
        "safetensors",
        "hf",
    ),
    "config_format": refused("only a config.json is read; convert the model's configuration", "auto", "hf"),
    "hf_config_path": refused("config.json is read from the model's folder; put it there"),
    "hf_overrides": acts("hf_overrides", json_object),
    "rope_scaling": acts("hf_overrides", lambda value: {"rope_scaling": json_object(value)}),
    "rope_theta": acts("hf_overrides", lambda value: {"rope_theta": number(value)}),
    "model_impl": refused("models are built in; leave it at auto", "auto", "vllm"),
    "model_loader_extra_config": harmless(_DOWNLOADS),
    "safetensors_load_strategy": harmless(_DOWNLOADS, "lazy"),
    "ignore_patterns": harmless(_DOWNLOADS, shape="values"),
    "use_tqdm_on_load": harmless("progress is shown on terminals alone", "true", shape="switch"),
    "pt_load_map_location": harmless("no PyTorch files are read", "cpu"),
    "qlora_adapter_name_or_path": refused(
        "an adapter of QLoRA is a LoRA as any other; register it with --lora-modules"
    ),
    "dtype": acts("dtype", dtype_name),
    "quantization": acts("quantization", lambda value: str(value).lower(), short=("-q",)),
    "max_model_len": acts("max_model_len", count, "auto", "-1"),
    "task": partly(
        ("embed", "embedding", "score"),
        "embeddings and scores are served beside completions",
        "only generation, embeddings and scores are served; leave it out",
        "auto",
        "generate",
    ),
    "runner": partly(
        ("pooling",),
        "embeddings and scores are served beside completions",
        "only generation, embeddings and scores are served; leave it out",
        "auto",
        "generate",
    ),
    "convert": partly(
        ("embed",),
        "embeddings and scores are served beside completions",
        "only generation, embeddings and scores are served; leave it out",
        "auto",
    ),
    "override_pooler_config": refused("how texts are pooled is fixed; leave it out"),
    "pooler_config": refused("how texts are pooled is fixed; leave it out"),
    "override_neuron_config": refused("it is for devices that are not served; leave it out"),
    "override_attention_dtype": refused("attention has the model's dtype; leave it out"),
    "disable_sliding_window": refused(
        "a model keeps the window it was trained with; limit the length with --max-model-len instead", shape="switch"
    ),
    "enable_prompt_embeds": refused("prompts are text or token ids; leave it out", shape="switch"),
    "logits_processor_pattern": refused(f"{_NO_CODE}; use logit_bias or structured outputs"),
    "logits_processors": refused(f"{_NO_CODE}; use logit_bias or structured outputs", shape="values"),
    "io_processor_plugin": refused(f"{_NO_CODE}; leave it out"),
    "generation_config": acts("generation_config", str),
    "override_generation_config": acts("override_generation_config", mapping),
    "logprobs_mode": refused("log-probabilities are the model's own; leave it out", "raw_logprobs"),
    "enable_sleep_mode": harmless("LLM.sleep() works without it, and a server's engine stays awake", shape="switch"),
    # Structured output, reasoning, tools.
    "guided_decoding_backend": harmless("llguidance follows every format", "auto", "guidance"),
    "guided_decoding_disable_fallback": harmless("there is one backend, llguidance", shape="switch"),
    "guided_decoding_disable_any_whitespace": harmless("requests say which whitespace they allow", shape="switch"),
    "guided_decoding_disable_additional_properties": harmless("a schema says it itself", shape="switch"),
    "structured_outputs_config": harmless("llguidance follows every format"),
    "enable_reasoning": harmless("--reasoning-parser alone switches it on", shape="switch"),
    "reasoning_parser_plugin": refused(f"{_NO_CODE}; choose a --reasoning-parser"),
    # Images, sound, film.
    "limit_mm_per_prompt": harmless("models read text alone"),
    "media_io_kwargs": harmless("models read text alone"),
    "mm_processor_kwargs": harmless("models read text alone"),
    "mm_processor_cache_gb": harmless("models read text alone"),
    "mm_processor_cache_type": harmless("models read text alone"),
    "mm_encoder_tp_mode": harmless("models read text alone"),
    "disable_mm_preprocessor_cache": harmless("models read text alone", shape="switch"),
    "skip_mm_profiling": harmless("models read text alone", shape="switch"),
    "interleave_mm_strings": harmless("models read text alone", shape="switch"),
    "language_model_only": harmless("models read text alone", shape="switch"),
    "enable_mm_embeds": refused("models read text alone; leave it out", shape="switch"),
    "allowed_local_media_path": harmless("models read text alone"),
    "allowed_media_domains": harmless("models read text alone", shape="values"),
}
