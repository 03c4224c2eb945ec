"""Stages that have some layers each, alone and with ranks that divide these, say what transformers and PEFT say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.parallel.test_parity import EXPERTS, HEADS
from tests.engine.parity.test_adapters import KINDS, OTHER_KINDS, save_adapter
from transformers import (
    BloomConfig,
    Cohere2Config,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    Olmo3Config,
    Qwen2MoeConfig,
    StableLmConfig,
)

from multiflora_adapters.store import ArtifactStore

KINDS_OF_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

# Ranks of a stage, stages, and how many layers each of these has.
FAMILIES: dict[str, tuple[Any, dict[str, Any], int, list[int]]] = {
    "tied": (LlamaConfig, {**HEADS, "num_hidden_layers": 3, "tie_word_embeddings": True}, 1, [1, 2]),
    "more stages": (LlamaConfig, {**HEADS, "num_hidden_layers": 5, "attention_bias": True}, 1, [1, 2, 2]),
    "two by two": (LlamaConfig, {**HEADS, "attention_bias": True, "mlp_bias": True}, 2, [1, 1]),
    "slopes": (BloomConfig, {"num_attention_heads": 4, "num_hidden_layers": 3}, 1, [1, 2]),
    "positions, [in, out]": (GPT2Config, {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512}, 1, [1, 1]),
    "parallel": (StableLmConfig, {**HEADS, "qk_layernorm": True, "use_parallel_residual": True}, 1, [1, 1]),
    "norms of outputs": (
        Gemma2Config,
        {**HEADS, "num_hidden_layers": 3, "head_dim": 32, "sliding_window": 20, "layer_types": KINDS_OF_LAYERS},
        2,
        [1, 2],
    ),
    "no input norm": (
        Olmo3Config,
        {**HEADS, "num_hidden_layers": 3, "sliding_window": 20, "layer_types": KINDS_OF_LAYERS},
        1,
        [1, 2],
    ),
    "rotation by layer": (
        Cohere2Config,
        {**HEADS, "num_hidden_layers": 3, "sliding_window": 20, "layer_types": KINDS_OF_LAYERS},
        1,
        [1, 2],
    ),
    # Of its layers the second and the last are sparse.
    "experts": (
        Qwen2MoeConfig,
        {
            **HEADS,
            **EXPERTS,
            "shared_expert_intermediate_size": 56,
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
        },
        1,
        [2, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_family(
    name: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    """Mixed lengths in chunks of 48 tokens; a second round is served from the prefix cache."""
    config_class, values, shards, layers = FAMILIES[name]
    model, folder = save_model(tiny_config(config_class, **values))
    engine = start_engine(folder, max_model_len=256, tensor_parallel_size=shards, pipeline_parallel_size=len(layers))
    assert [stage.num_layers for stage in engine.ready.stages] == layers
    asked = [prompts[i] for i in (0, 3, 4)]
    for prompt, answer in zip(asked, ask(engine, asked, prompt_logprobs=0, max_tokens=3), strict=True):
        check_answer(model, prompt, answer)
    cached = ask(engine, asked, max_tokens=3)
    assert [answer.cached_tokens for answer in cached] == [(len(prompt) - 1) // 16 * 16 for prompt in asked]
    for prompt, answer in zip(asked, cached, strict=True):
        check_answer(model, prompt, answer)


ADAPTERS: dict[str, tuple[Any, dict[str, Any], int, list[str]]] = {
    # One that touches the last layers alone takes nothing of the first stage.
    "tied": (
        LlamaConfig,
        {**HEADS, "num_hidden_layers": 3, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        1,
        ["all_linear", "dora", "embeddings", "bias_of_targets", "own_both", "token_rows", "last_layer"],
    ),
    "two by two": (LlamaConfig, {**HEADS}, 2, ["dora", "own_head", "token_rows_of_each"]),
    "experts": (Qwen2MoeConfig, {**HEADS, **EXPERTS, "shared_expert_intermediate_size": 56}, 1, ["all_experts"]),
}
LAST_LAYER = {"last_layer": {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "layers_to_transform": [2]}}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_alone_and_in_one_mixed_batch(name: str, check_adapters: Any) -> None:
    config_class, values, shards, kinds = ADAPTERS[name]
    known = KINDS | OTHER_KINDS | LAST_LAYER
    divided = {"tensor_parallel_size": shards, "pipeline_parallel_size": 2}
    check_adapters(config_class, values, {kind: known[kind] for kind in kinds}, **divided)


def test_requests_at_once_are_computed_in_batches_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
) -> None:
    model, folder = save_model(tiny_config(LlamaConfig, **HEADS))
    engine = start_engine(folder, max_model_len=256, pipeline_parallel_size=2)
    sizes, launch = list[int](), engine.engine._runner.launch

    def counted(batch: Any) -> Any:
        sizes.append(len(batch.entries))
        return launch(batch)

    monkeypatch.setattr(engine.engine._runner, "launch", counted)
    asked = [prompts[i] for i in (0, 1, 3, 4)]
    for prompt, answer in zip(asked, ask(engine, asked, max_tokens=12), strict=True):
        check_answer(model, prompt, answer)
    assert sizes[-4:] == [2] * 4
    assert not engine.engine._in_flight


def test_memory_is_told_by_stage(
    tmp_path: Path, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, prompts: Any
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig, **HEADS, num_hidden_layers=3))
    store = ArtifactStore(tmp_path / "artifacts")
    digests = []
    for kind in ("all_linear", "last_layer"):
        save_adapter(folder, tmp_path / kind, (KINDS | LAST_LAYER)[kind])
        digests.append(store.add(tmp_path / kind).digest)
    alone, divided = (start_engine(folder, max_model_len=256, pipeline_parallel_size=count) for count in (1, 2))
    for engine in (alone, divided):
        ask(engine, [prompts[1]] * 2, digests, max_tokens=1)
    whole, stats = alone.engine.stats(), divided.engine.stats()
    assert not whole.stage_adapter_bytes
    first, last = stats.stage_adapter_bytes
    assert first + last == stats.adapter_bytes == whole.adapter_bytes
    assert 0 < 2 * first < last
    ready = divided.ready
    assert sum(stage.weight_bytes for stage in ready.stages) == ready.weight_bytes == alone.ready.weight_bytes
    assert [stage.kv_bytes for stage in ready.stages] == [ready.kv_bytes // 3, 2 * ready.kv_bytes // 3]
