"""Whose cached keys can be turned to another place, and why others' cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.conftest import tiny
from transformers import (
    BloomConfig,
    Gemma2Config,
    GlmConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.rotary import why_keys_stay

GPT2 = {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512}
BLOOM = {"hidden_size": 64, "n_head": 2, "n_layer": 2}
LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "rope_theta": 10000.0,
}
STAY = {
    "alibi": (BloomConfig(vocab_size=300, **BLOOM), "ALiBi"),
    "learned": (GPT2Config(vocab_size=300, **GPT2), "learned vectors"),
    "learned_opt": (tiny(OPTConfig, ffn_dim=96, word_embed_proj_dim=64), "learned vectors"),
    "windows": (tiny(MistralConfig, sliding_window=64), "sliding window"),
    "windows_of_some": (tiny(Gemma2Config, head_dim=32), "sliding window"),
    "longrope": (
        tiny(
            Phi3Config, rope_parameters=LONG, original_max_position_embeddings=128, pad_token_id=0, sliding_window=None
        ),
        "longrope",
    ),
    "dynamic": (
        tiny(LlamaConfig, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        "dynamic",
    ),
}
MOVE = {
    "llama": tiny(LlamaConfig),
    "linear": tiny(LlamaConfig, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    "qwen3": tiny(Qwen3Config, head_dim=32),
    "part_of_a_head": tiny(GPTNeoXConfig, rotary_pct=0.5),
    "neighbours": tiny(GlmConfig, head_dim=32),
    "some_layers_do_not_rotate": tiny(SmolLM3Config, no_rope_layers=[1, 0]),
    "no_window_after_all": tiny(MistralConfig, sliding_window=None),
}


def why(config: PreTrainedConfig, folder: Path) -> str | None:
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    config.save_pretrained(folder)
    return why_keys_stay(load_model_config(folder))


@pytest.mark.parametrize("name", STAY)
def test_keys_that_stay_say_why(name: str, tmp_path: Path) -> None:
    config, reason = STAY[name]
    assert reason in (why(config, tmp_path) or "")


@pytest.mark.parametrize("name", MOVE)
def test_other_keys_can_be_moved(name: str, tmp_path: Path) -> None:
    assert why(MOVE[name], tmp_path) is None
