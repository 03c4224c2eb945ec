"""Every family and every RoPE kind says what transformers says: chunked, mixed, cached, preempted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import (
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    Olmo3Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(16)],
    "long_factor": [1.0 + 0.5 * i for i in range(16)],
    "original_max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
HALF = {**LONG, "short_factor": LONG["short_factor"][:12], "long_factor": LONG["long_factor"][:12]}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.1,
    "residual_multiplier": 0.7,
    "logits_scaling": 1.5,
    "attention_bias": True,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
LIMITED = {"softmax_scale": 0.3, "clip_qkv": 1.5}
# A limit that values of the gate reach.
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 20, "swiglu_limit": 0.5}
# Caps near the scores, so that they bend them.
GEMMA2 = {
    "head_dim": 32,
    "query_pre_attn_scalar": 48,
    "sliding_window": 20,
    "attn_logit_softcapping": 4.0,
    "final_logit_softcapping": 6.0,
}
BOTH = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}

SCALED = {
    "full_attention": {**YARN, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e5},
}
FOUR_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}

FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama_multi_head": (LlamaConfig, {"num_attention_heads": 4, "num_key_value_heads": 4, "rope_theta": 5e5}),
    "llama_biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama_tied": (LlamaConfig, {"tie_word_embeddings": True, "head_dim": 64, "hidden_act": "gelu_pytorch_tanh"}),
    "llama_odd": (LlamaConfig, {"num_attention_heads": 3, "head_dim": 24, "num_hidden_layers": 3, "hidden_size": 60}),
    "llama_linear": (LlamaConfig, {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "llama_dynamic": (LlamaConfig, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama_yarn": (LlamaConfig, {"rope_scaling": YARN}),
    "llama_yarn_scaled": (
        LlamaConfig,
        {"rope_scaling": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5, "beta_fast": 16.0, "truncate": False}},
    ),
    "llama_yarn_attention": (LlamaConfig, {"rope_scaling": {**YARN, "attention_factor": 1.3}}),
    "llama_llama3": (LlamaConfig, {"rope_scaling": LLAMA3}),
    "llama_longrope": (LlamaConfig, {"rope_scaling": LONG}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral_window": (MistralConfig, {"sliding_window": 20, "head_dim": 64}),
    "qwen2": (Qwen2Config, {}),
    "qwen2_window": (Qwen2Config, {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {"head_dim": 64, "tie_word_embeddings": True}),
    "qwen3_biased_window": (
        Qwen3Config,
        {
            "head_dim": 16,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "phi3": (Phi3Config, {"sliding_window": 40}),
    "phi3_longrope": (Phi3Config, {"rope_scaling": LONG, "original_max_position_embeddings": 256}),
    "phi3_partial": (
        Phi3Config,
        {"rope_scaling": HALF, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 256},
    ),
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
    "mixtral_window": (MixtralConfig, {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 20}),
    "qwen2_moe": (Qwen2MoeConfig, {**EXPERTS, "shared_expert_intermediate_size": 56}),
    "qwen2_moe_mixed_window": (
        Qwen2MoeConfig,
        {
            **EXPERTS,
            "shared_expert_intermediate_size": 24,
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
            "use_sliding_window": True,
            "sliding_window": 24,
            "max_window_layers": 2,
            "num_hidden_layers": 3,
        },
    ),
    "qwen3_moe": (Qwen3MoeConfig, {**EXPERTS, "norm_topk_prob": True, "head_dim": 64, "tie_word_embeddings": True}),
    "qwen3_moe_mixed_window": (
        Qwen3MoeConfig,
        {**EXPERTS, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 20, "attention_bias": True},
    ),
    "gpt_oss": (GptOssConfig, {**GPT_OSS, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "gpt_oss_plain": (
        GptOssConfig,
        {**GPT_OSS, "attention_bias": False, "swiglu_alpha": 0.7, "layer_types": ["full_attention"] * 2},
    ),
    "gpt2": (GPT2Config, {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512}),
    "gptj": (GPTJConfig, {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512, "rotary_dim": 16}),
    "gpt_neox": (GPTNeoXConfig, {"tie_word_embeddings": False}),
    "gpt_neox_sequential": (GPTNeoXConfig, {"use_parallel_residual": False, "attention_bias": False}),
    "starcoder2": (Starcoder2Config, {"sliding_window": 20}),
    "starcoder2_plain": (Starcoder2Config, {"use_bias": False, "tie_word_embeddings": False, "norm_epsilon": 1e-2}),
    "stablelm": (StableLmConfig, {"use_qkv_bias": True}),
    "stablelm_parallel": (StableLmConfig, {"use_parallel_residual": True}),
    "stablelm_normed_heads": (StableLmConfig, {**FOUR_HEADS, "qk_layernorm": True}),
    "granite": (GraniteConfig, MULTIPLIERS),
    "smollm3": (SmolLM3Config, {"no_rope_layers": [0, 1], "attention_bias": True, "rope_scaling": YARN}),
    "smollm3_window": (
        SmolLM3Config,
        {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 16, "mlp_bias": True},
    ),
    "phi": (PhiConfig, {}),
    "phi_normed_heads": (PhiConfig, {"qk_layernorm": True}),
    "opt": (OPTConfig, {"ffn_dim": 96, "num_attention_heads": 2}),
    "opt_without_biases": (OPTConfig, {"enable_bias": False, "tie_word_embeddings": False}),
    "falcon_7b": (FalconConfig, {"multi_query": True}),
    "falcon_40b": (FalconConfig, {"new_decoder_architecture": True, "num_attention_heads": 4, "num_kv_heads": 2}),
    "falcon_11b": (
        FalconConfig,
        {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "num_kv_heads": 1, "ffn_hidden_size": 96},
    ),
    "falcon_rw": (FalconConfig, {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "bloom": (BloomConfig, {"n_head": 2, "n_layer": 2}),
    "bloom_three_heads": (BloomConfig, {"n_head": 3, "n_layer": 2, "hidden_size": 72, "tie_word_embeddings": False}),
    "mpt": (MptConfig, {"d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": 512}),
    "mpt_three_heads": (
        MptConfig,
        {"d_model": 96, "n_heads": 3, "n_layers": 2, "max_seq_len": 512, "attn_config": LIMITED},
    ),
    "falcon_sequential": (FalconConfig, {"multi_query": False, "parallel_attn": False, "bias": True}),
    "olmo2": (Olmo2Config, {"attention_bias": True}),
    "olmo3": (Olmo3Config, {"sliding_window": 20, "rope_parameters": SCALED, "num_hidden_layers": 4}),
    "cohere": (CohereConfig, {"logit_scale": 0.5, "attention_bias": True}),
    "cohere_normed_heads": (CohereConfig, {**FOUR_HEADS, "use_qk_norm": True}),
    "cohere2": (Cohere2Config, {"sliding_window": 20, "layer_types": ["full_attention", "sliding_attention"]}),
    "glm": (GlmConfig, {"head_dim": 32}),
    "glm4": (Glm4Config, {"head_dim": 32, "attention_bias": False}),
    "gemma": (GemmaConfig, {"head_dim": 32}),
    "gemma2": (Gemma2Config, GEMMA2),
    "gemma2_uncapped": (Gemma2Config, {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": (Gemma3TextConfig, {**GEMMA2, "layer_types": ["full_attention", "sliding_attention"]}),
    "gemma3_scaled": (Gemma3TextConfig, {**GEMMA2, "rope_parameters": BOTH, "sliding_window_pattern": 2}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family(
    name: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    """Mixed lengths in chunks of 48 tokens; a second round is served from the prefix cache."""
    config_class, values = FAMILIES[name]
    model, folder = save_model(tiny_config(config_class, **values))
    engine = start_engine(folder, max_model_len=256)
    for prompt, answer in zip(prompts, ask(engine, prompts, prompt_logprobs=0), strict=True):
        check_answer(model, prompt, answer)
    cached = ask(engine, prompts)
    assert [answer.cached_tokens for answer in cached] == [(len(prompt) - 1) // 16 * 16 for prompt in prompts]
    for prompt, answer in zip(prompts, cached, strict=True):
        check_answer(model, prompt, answer)


def test_mistral_with_layer_types(
    tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    """transformers loads such a file as Ministral, whose layers have windows by their types."""
    _, folder = save_model(tiny_config(MistralConfig, sliding_window=20))
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "layer_types": ["sliding_attention", "full_attention"]}))
    oracle = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(oracle).__name__ == "MinistralForCausalLM"
    answers = ask(start_engine(folder, max_model_len=256), prompts, prompt_logprobs=0)
    for prompt, answer in zip(prompts, answers, strict=True):
        check_answer(oracle, prompt, answer)


@pytest.mark.parametrize("name", ["llama", "llama_odd"])
@pytest.mark.parametrize("block_size", [1, 5, 64])
def test_other_block_sizes(
    name: str,
    block_size: int,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
) -> None:
    config_class, values = FAMILIES[name]
    model, folder = save_model(tiny_config(config_class, **values))
    engine = start_engine(folder, max_model_len=256, block_size=block_size)
    for prompt, answer in zip(prompts, ask(engine, prompts, prompt_logprobs=0), strict=True):
        check_answer(model, prompt, answer)


@pytest.mark.parametrize("name", ["llama_longrope", "phi3_longrope", "phi3_partial"])
def test_longrope_uses_its_long_factors_when_the_engine_is_long(
    name: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    config_class, values = FAMILIES[name]
    model, folder = save_model(tiny_config(config_class, **values))
    engine = start_engine(folder, max_model_len=400)
    prompt = (prompts[5] + prompts[4] + prompts[3] * 2)[:280]
    (answer,) = ask(engine, [prompt], prompt_logprobs=0)
    check_answer(model, prompt, answer)


def test_dynamic_scaling_is_that_of_the_engines_length(
    tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    """transformers agrees for a sequence of exactly that length."""
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    model, folder = save_model(tiny_config(LlamaConfig, max_position_embeddings=64, rope_scaling=scaling))
    engine = start_engine(folder, max_model_len=206)
    (answer,) = ask(engine, [prompts[5]], prompt_logprobs=0)
    assert len(answer.tokens) == 6
    check_answer(model, prompts[5], answer)


@pytest.mark.parametrize("name", ["llama", "mistral_window", "phi3_partial"])
def test_preempted_sequences_say_the_same(
    name: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    config_class, values = FAMILIES[name]
    config = tiny_config(config_class, **values)
    model, folder = save_model(config)
    head_dim = getattr(config, "head_dim", None) or 32
    block_bytes = 2 * 2 * 1 * head_dim * 4 * 16
    engine = start_engine(folder, max_model_len=128, kv_cache_memory=10 * block_bytes, enable_prefix_caching=False)
    assert engine.ready.num_blocks == 10
    short = [prompts[i] for i in (1, 2, 3, 4)] * 2
    answers = ask(engine, short, max_tokens=20)
    assert engine.engine.stats().preemptions > 0
    for prompt, answer in zip(short, answers, strict=True):
        check_answer(model, prompt, answer)


@pytest.mark.parametrize("name", ["llama_llama3", "mistral_window", "phi3_partial"])
def test_two_thousand_tokens(
    name: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    config_class, values = FAMILIES[name]
    model, folder = save_model(tiny_config(config_class, **values, max_position_embeddings=2048))
    engine = start_engine(folder, kv_cache_memory=64 << 20, max_num_batched_tokens=300)
    prompt = (prompts[5] + prompts[4] + prompts[3]) * 8
    answers = ask(engine, [prompt, prompts[1]], prompt_logprobs=0)
    check_answer(model, prompt, answers[0])
    (again,) = ask(engine, [prompt])
    assert len(prompt) == 2000
    assert again.cached_tokens == 1984
    check_answer(model, prompt, again)
