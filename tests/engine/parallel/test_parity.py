"""Two and four ranks say what transformers and PEFT say: chunked, mixed, cached, preempted, with every kind of site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.parity.test_adapters import FUSED_KINDS, KINDS, OTHER_KINDS, save_adapter
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2MoeConfig,
    StableLmConfig,
)

from multiflora_adapters.mixes.recipe import Mix, MixPart, mix_digest
from multiflora_adapters.store import ArtifactStore

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}

FAMILIES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "biases": (LlamaConfig, {**HEADS, "attention_bias": True, "mlp_bias": True}, 2),
    # Two ranks have each of the key-value heads; 299 tokens are no multiple of four.
    "fewer key-value heads than ranks": (LlamaConfig, {**HEADS, "vocab_size": 303}, 4),
    "tied": (LlamaConfig, {**HEADS, "tie_word_embeddings": True}, 2),
    "fused": (Phi3Config, {**HEADS, "sliding_window": 40}, 2),
    "grouped, parallel": (FalconConfig, {"new_decoder_architecture": True, "num_attention_heads": 4}, 2),
    "slopes": (BloomConfig, {"num_attention_heads": 4}, 4),
    "stored [in, out]": (GPT2Config, {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512}, 2),
    "a norm for each head": (StableLmConfig, {**HEADS, "qk_layernorm": True, "use_parallel_residual": True}, 2),
    "norms of outputs": (Gemma2Config, {**HEADS, "head_dim": 32, "sliding_window": 20}, 2),
    "a norm over all heads": (Olmo2Config, {**HEADS, "attention_bias": True}, 4),
    "experts": (Qwen2MoeConfig, {**HEADS, **EXPERTS, "shared_expert_intermediate_size": 56}, 2),
    "experts stored [in, out], sinks": (
        GptOssConfig,
        {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 20},
        2,
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family(
    name: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    """Mixed lengths in chunks of 48 tokens; a second round is served from the prefix cache."""
    config_class, values, ranks = FAMILIES[name]
    model, folder = save_model(tiny_config(config_class, **values))
    engine = start_engine(folder, max_model_len=256, tensor_parallel_size=ranks)
    asked = [prompts[i] for i in (0, 3, 4)]
    for prompt, answer in zip(asked, ask(engine, asked, prompt_logprobs=0, max_tokens=3), strict=True):
        check_answer(model, prompt, answer)
    cached = ask(engine, asked, max_tokens=3)
    assert [answer.cached_tokens for answer in cached] == [(len(prompt) - 1) // 16 * 16 for prompt in asked]
    for prompt, answer in zip(asked, cached, strict=True):
        check_answer(model, prompt, answer)


ADAPTERS: dict[str, tuple[Any, dict[str, Any], int, list[str]]] = {
    "llama": (
        LlamaConfig,
        {**HEADS, "attention_bias": True, "mlp_bias": True},
        2,
        ["all_linear", "dora", "embeddings", "bias_of_targets", "own_head", "token_rows_of_each"],
    ),
    "four ranks": (LlamaConfig, {**HEADS, "tie_word_embeddings": True}, 4, ["dora", "own_both", "token_rows"]),
    "fused": (Phi3Config, {**HEADS, "sliding_window": 40}, 2, ["fused_dora"]),
    "experts": (Qwen2MoeConfig, {**HEADS, **EXPERTS, "shared_expert_intermediate_size": 56}, 2, ["all_experts"]),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_alone_and_in_one_mixed_batch(name: str, check_adapters: Any) -> None:
    config_class, values, ranks, kinds = ADAPTERS[name]
    known = KINDS | FUSED_KINDS | OTHER_KINDS
    check_adapters(config_class, values, {kind: known[kind] for kind in kinds}, tensor_parallel_size=ranks)


@pytest.mark.parametrize("divided", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}])
def test_adapters_take_turns_in_few_rows_with_scarce_blocks(
    divided: dict[str, int],
    tmp_path: Path,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
) -> None:
    """Eviction from slots and from host memory, and preemption of sequences, at once; batches of stages take turns."""
    base, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    store = ArtifactStore(tmp_path / "artifacts")
    oracles = {None: base}
    for kind in ("plain", "all_linear", "subset", "dora"):
        oracle = save_adapter(folder, tmp_path / kind, KINDS[kind])
        oracles[store.add(tmp_path / kind).digest] = oracle
    block_bytes = 2 * 2 * 16 * 4 * 16  # of the one key-value head that a rank has, or the one layer of a stage
    engine = start_engine(
        folder,
        max_model_len=128,
        max_loras=1,
        max_cpu_loras=2,
        kv_cache_memory=10 * block_bytes,
        **divided,
    )
    assert engine.ready.num_blocks == 10
    rows = [(digest, prompts[i]) for i in (1, 4) for digest in oracles]
    answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows], max_tokens=20)
    stats = engine.engine.stats()
    assert stats.adapter_evictions > 0
    assert stats.preemptions > 0
    for (digest, prompt), answer in zip(rows, answers, strict=True):
        check_answer(oracles[digest], prompt, answer)


@pytest.mark.parametrize("divided", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}])
def test_drafts_are_verified_by_all_ranks(
    divided: dict[str, int], tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, prompts: Any
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    eager = {"enable_prompt_lookup": True, "prompt_lookup_min": 1}
    engine = start_engine(folder, max_model_len=256, **divided, **eager)
    few = {"allowed_token_ids": (7, 8, 9)}  # whose answers repeat themselves
    alone = start_engine(folder, max_model_len=256)
    asked = [prompts[3], prompts[3] * 2]
    drafted, plain = (ask(one, asked, max_tokens=24, **few) for one in (engine, alone))
    assert engine.engine.stats().draft_tokens > 0
    assert [answer.tokens for answer in drafted] == [answer.tokens for answer in plain]


@pytest.mark.parametrize(
    ("combination", "shards", "stages"), [("cat", 2, 1), ("svd", 2, 1), ("cat", 2, 2), ("svd", 1, 2)]
)
def test_a_mix_is_the_same_as_on_one_rank(
    combination: Any,
    shards: int,
    stages: int,
    tmp_path: Path,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    prompts: Any,
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    store = ArtifactStore(tmp_path / "artifacts")
    parts = []
    # With LoRA on the embedding PEFT saves a copy of the base's, which the rank that has it compares.
    for kind in ("plain", "embeddings" if shards == 1 else "all_linear"):
        save_adapter(folder, tmp_path / kind, KINDS[kind])
        parts.append(MixPart(store.add(tmp_path / kind).digest, 0.6))
    digest = mix_digest(Mix(tuple(parts), combination))
    alone, together = (
        ask(start_engine(folder, max_model_len=256, **ranks), [prompts[3]], [digest])[0]
        for ranks in ({}, {"tensor_parallel_size": shards, "pipeline_parallel_size": stages})
    )
    assert together.tokens == alone.tokens
    assert together.logprobs == pytest.approx(alone.logprobs, abs=2e-3)
