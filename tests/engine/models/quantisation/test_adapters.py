"""Adapters on a quantised base, as QLoRA trains them, say what PEFT says on its dequantised twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.engine.models.quantisation.cases import FIXTURES, load
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.store import ArtifactStore

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def dense_twin(folder: Path) -> PreTrainedModel:
    """In transformers; that the weights are the tool's, test_fixtures.py shows."""
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    weights = load(folder)
    names = [name.removesuffix(".weight") for name in model.state_dict() if "norm" not in name]
    model.load_state_dict({f"{name}.weight": weights.base_weight(name) for name in names}, strict=False)
    return model


@pytest.mark.parametrize(("fixture", "dora"), [("bnb-nf4", False), ("bnb-nf4", True), ("gptq-4-asym", False)])
def test_adapters_say_what_peft_says(
    fixture: str,
    dora: bool,
    tmp_path: Path,
    store: ArtifactStore,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
) -> None:
    base = dense_twin(FIXTURES / fixture)
    torch.manual_seed(5)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=LINEAR, use_dora=dora, init_lora_weights=False))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    digest = store.add(tmp_path / "adapter").digest
    prompts = [[1, 5, 9, 44, 17, 101], [3, 60, 2]]
    adapted_answer, base_answer = ask(start_engine(FIXTURES / fixture, dtype="float32"), prompts, [digest, None])
    check_answer(adapted.eval(), prompts[0], adapted_answer)
    with adapted.disable_adapter():
        check_answer(adapted, prompts[1], base_answer)
