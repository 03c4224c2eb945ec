"""Every kind of adapter says what PEFT says: alone, in one mixed batch with the base, cached, preempted, evicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
    Olmo3Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.store import ArtifactStore

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
PATTERNS = {"rank_pattern": {"q_proj": 12, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"down_proj": 32}}

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "all_linear": {"r": 8, "target_modules": LINEAR},
    "subset": {"r": 3, "target_modules": ["k_proj", "up_proj"]},
    "rslora": {"r": 16, "target_modules": LINEAR, "use_rslora": True},
    "patterns": {"r": 4, "target_modules": LINEAR, **PATTERNS},
    "some_layers": {"r": 4, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1]},
    "dora": {"r": 4, "target_modules": LINEAR, "use_dora": True},
    "embeddings": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "lora_bias": {"r": 4, "target_modules": LINEAR, "lora_bias": True},
    "bias_of_targets": {"r": 4, "target_modules": ["q_proj", "o_proj", "down_proj"], "bias": "lora_only"},
    "bias_of_all": {"r": 4, "target_modules": ["v_proj", "gate_proj"], "bias": "all", "use_dora": True},
    "own_embedding": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "own_head": {"r": 4, "target_modules": LINEAR, "modules_to_save": ["lm_head"], "use_dora": True},
    "own_both": {"r": 4, "target_modules": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "own_tied": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    "token_rows": {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [*range(290, 30, -3), 299]},
    "token_rows_of_each": {
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "trainable_token_indices": {"embed_tokens": [7, 5, *range(100, 200)], "lm_head": [*range(250, 40, -2)]},
    },
    "token_rows_by_name": {
        "r": 4,
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [*range(299, 40, -2)]},
    },
    "token_rows_and_own_head": {
        "r": 4,
        "target_modules": ["o_proj"],
        "trainable_token_indices": [*range(100, 200)],
        "modules_to_save": ["lm_head"],
    },
    "bfloat16": {"r": 4, "target_modules": LINEAR, "dtype": torch.bfloat16},
}
TIED_KINDS = ["embeddings", "all_linear", "own_embedding", "own_head", "own_both", "own_tied"]
TIED_KINDS += ["token_rows", "token_rows_of_each", "token_rows_by_name"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
GPT2 = {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512}
BASES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "llama": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}, list(KINDS)),
    "llama_tied": (LlamaConfig, {"tie_word_embeddings": True}, TIED_KINDS),
    "qwen2": (Qwen2Config, {}, ["all_linear", "dora", "lora_bias", "bias_of_targets"]),
    "qwen3": (Qwen3Config, {"head_dim": 64}, ["all_linear", "dora"]),
    "phi3": (Phi3Config, {"sliding_window": 40}, ["fused", "fused_dora", "embeddings_fused", "fused_bias"]),
    "mixtral": (MixtralConfig, {"num_local_experts": 4}, ["attention_dora", "experts", "parameters", "linears"]),
    "qwen2_moe": (
        Qwen2MoeConfig,
        {**EXPERTS, "shared_expert_intermediate_size": 56, "mlp_only_layers": [1]},
        ["all_linear", "shared_experts", "all_experts"],
    ),
    "gpt_oss": (
        GptOssConfig,
        # Square, as in the published models.
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 32,
            "sliding_window": 20,
            "intermediate_size": 64,
        },
        ["attention_dora", "gpt_oss"],
    ),
    "gpt2": (GPT2Config, GPT2, ["gpt2", "gpt2_biases", "gpt2_ends"]),
    "gptj": (GPTJConfig, {**GPT2, "rotary_dim": 16}, ["gptj", "gptj_rows"]),
    "gpt_neox": (GPTNeoXConfig, {}, ["gpt_neox", "gpt_neox_biases", "gpt_neox_ends"]),
    "starcoder2": (Starcoder2Config, {}, ["starcoder2"]),
    "stablelm": (StableLmConfig, {"use_parallel_residual": True, "qk_layernorm": True}, ["dora"]),
    "granite": (GraniteConfig, {"embedding_multiplier": 3.0, "residual_multiplier": 0.7}, ["dora", "embeddings"]),
    "smollm3": (SmolLM3Config, {"no_rope_layers": [0, 1], "tie_word_embeddings": False}, ["dora"]),
    "phi": (PhiConfig, {}, ["phi", "phi_head"]),
    "opt": (OPTConfig, {"ffn_dim": 96}, ["opt"]),
    "falcon": (FalconConfig, {"multi_query": True}, ["falcon"]),
    "mpt": (MptConfig, {"d_model": 64, "n_heads": 2, "n_layers": 2, "attn_config": {"clip_qkv": 1.5}}, ["bloom"]),
    "bloom": (BloomConfig, {"n_head": 2, "n_layer": 2}, ["bloom"]),
    "falcon_40b": (FalconConfig, {"new_decoder_architecture": True, "num_attention_heads": 4}, ["falcon"]),
    "olmo3": (Olmo3Config, {"sliding_window": 20, "layer_types": ["full_attention", "sliding_attention"]}, ["dora"]),
    "cohere": (CohereConfig, {"use_qk_norm": True}, ["dora", "lora_bias"]),
    "cohere2": (
        Cohere2Config,
        {"sliding_window": 20, "layer_types": ["full_attention", "sliding_attention"]},
        ["dora", "embeddings"],
    ),
    "glm4": (Glm4Config, {"head_dim": 32}, ["glm"]),
    "gemma2": (Gemma2Config, {"head_dim": 32, "sliding_window": 20}, ["dora"]),
    "gemma3": (Gemma3TextConfig, {"head_dim": 32, "tie_word_embeddings": False}, ["dora", "embeddings", "token_rows"]),
}
FUSED_KINDS: dict[str, dict[str, Any]] = {
    "fused": {"r": 8, "target_modules": FUSED},
    "fused_bias": {"r": 4, "target_modules": FUSED, "lora_bias": True},
    "fused_dora": {"r": 4, "target_modules": FUSED, "use_dora": True},
    "embeddings_fused": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "qkv_proj"]},
}
# Rows of q and k lie in another order here than in the files: A alone would not show it.
OTHER_KINDS: dict[str, dict[str, Any]] = {
    "attention_dora": {"r": 4, "target_modules": [*LINEAR[:4], "lm_head"], "use_dora": True},
    # Of experts and routers PEFT makes target_parameters, gate and up with twice the rank.
    "experts": {"r": 4, "target_modules": ["q_proj", "w1", "w2", "w3"], "use_rslora": True},
    "linears": {"r": 4, "target_modules": "all-linear"},
    "parameters": {
        "r": 4,
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "gate.weight", "k_proj.weight"],
        "rank_pattern": {"gate_up_proj": 3, "gate.weight": 2, "layers.1.self_attn.k_proj.weight": 5},
        "alpha_pattern": {r"layers\.0\.mlp\.experts.*": 9},
    },
    "all_experts": {
        "r": 3,
        "target_modules": ["gate_proj", "down_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
    # One parameter of the first layer's experts, two of the second's.
    "gpt_oss": {
        "r": 4,
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "1.mlp.experts.down_proj", "router.weight"],
    },
    # PEFT finds gate, shared experts and dense layers under the same names; routers and experts are no linears.
    "shared_experts": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "gpt2": {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True},
    "gpt2_biases": {"r": 4, "target_modules": ["c_attn", "mlp.c_proj"], "bias": "lora_only", "use_rslora": True},
    "gpt2_ends": {"r": 4, "target_modules": ["wte", "attn.c_proj"]},
    "gptj": {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"], "use_dora": True},
    "gptj_rows": {"r": 4, "target_modules": ["k_proj"], "lora_bias": True, "trainable_token_indices": {"wte": [5, 9]}},
    "gpt_neox": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "glm": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "starcoder2": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "gpt_neox_biases": {"r": 4, "target_modules": ["query_key_value", "dense"], "bias": "lora_only"},
    "gpt_neox_ends": {"r": 4, "target_modules": ["query_key_value"], "modules_to_save": ["embed_in", "lm_head"]},
    "phi": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "phi_head": {"r": 4, "target_modules": ["q_proj", "lm_head"], "bias": "lora_only"},
    "opt": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "bloom": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "falcon": {"r": 4, "target_modules": "all-linear", "use_dora": True},
}


def save_adapter(base: Path, folder: Path, kind: dict[str, Any]) -> PreTrainedModel:
    """An adapter of PEFT's making with random weights, saved; returned is what PEFT reads back from the files."""
    values = {"lora_alpha": 16, **kind}
    dtype = values.pop("dtype", torch.float32)
    torch.manual_seed(len(str(folder)) + sum(map(ord, folder.name)))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
            elif "modules_to_save" in name or "trainable_tokens" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "lora_" in name or (name.endswith("bias") and "bias" in kind):
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()


@pytest.fixture(params=BASES)
def served(request: Any, tmp_path: Path, tiny_config: Any, save_model: Any) -> tuple[Path, Any, dict[str, Any]]:
    """(model folder, the base in transformers, digest -> the adapter in PEFT) with the adapters in the store."""
    config_class, values, names = BASES[request.param]
    base, folder = save_model(tiny_config(config_class, **values))
    store = ArtifactStore(tmp_path / "artifacts")
    oracles = {}
    for name in names:
        oracle = save_adapter(folder, tmp_path / name, (KINDS | FUSED_KINDS | OTHER_KINDS)[name])
        oracles[store.add(tmp_path / name).digest] = oracle
    return folder, base, oracles


def test_adapters_alone_and_in_one_mixed_batch(
    served: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    folder, base, oracles = served
    engine = start_engine(folder, max_model_len=256, max_loras=24)
    for digest, oracle in oracles.items():
        asked = [prompts[i] for i in (0, 2, 4)]
        for prompt, answer in zip(asked, ask(engine, asked, [digest] * 3, prompt_logprobs=0), strict=True):
            check_answer(oracle, prompt, answer)
    rows = [(digest, prompt) for prompt in prompts for digest in (None, *oracles)]
    for prompt_logprobs in (0, None):
        answers = ask(
            engine,
            [prompt for _, prompt in rows],
            [digest for digest, _ in rows],
            prompt_logprobs=prompt_logprobs,
        )
        for (digest, prompt), answer in zip(rows, answers, strict=True):
            check_answer(base if digest is None else oracles[digest], prompt, answer)


@pytest.mark.parametrize("served", ["llama"], indirect=True)
def test_adapters_take_turns_in_two_slots_with_scarce_blocks(
    served: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    """Eviction from slots and preemption of sequences, at once."""
    folder, base, oracles = served
    block_bytes = 2 * 2 * 32 * 4 * 16
    engine = start_engine(folder, max_model_len=128, max_loras=2, max_cpu_loras=3, kv_cache_memory=10 * block_bytes)
    rows = [(digest, prompts[i]) for i in (1, 4) for digest in (None, *oracles)]
    answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows], max_tokens=20)
    stats = engine.engine.stats()
    assert stats.adapter_evictions > 0
    assert stats.preemptions > 0
    for (digest, prompt), answer in zip(rows, answers, strict=True):
        check_answer(base if digest is None else oracles[digest], prompt, answer)


@pytest.mark.parametrize("served", ["llama_tied"], indirect=True)
def test_adapters_change_what_the_base_says(served: Any, start_engine: Any, ask: Any, prompts: Any) -> None:
    """Otherwise the tests above would pass with adapters that do nothing."""
    folder, _, oracles = served
    engine = start_engine(folder, max_model_len=256)
    (base,) = ask(engine, [prompts[2]])
    for digest in oracles:
        (answer,) = ask(engine, [prompts[2]], [digest])
        assert answer.tokens != base.tokens
