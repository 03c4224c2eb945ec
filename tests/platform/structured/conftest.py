"""A model with random weights whose vocabulary is the demo's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from multiflora import LLM

DEMO_BASE = Path(__file__).parents[3] / "examples" / "demo" / "base"
VOCAB, EOS = 1536, 1


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random-model")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_BASE / name, folder)
    return folder


@pytest.fixture(scope="session")
def llm(random_model: Path) -> Iterator[LLM]:
    with LLM(random_model, kv_cache_memory=64 << 20, num_threads=1) as made:
        yield made
