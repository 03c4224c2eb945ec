"""PiSSA and OLoRA change the base while they train; what PEFT converts says the same on the plain base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.report import AdapterError
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import load_adapter
from multiflora_engine.models.config import load_model_config


def trained(base: Path, folder: Path, init: str) -> PreTrainedModel:
    """The model as it was trained, saved converted in `folder`/converted and unconverted in `folder`/plain."""
    torch.manual_seed(4)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=init)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder / "initial")
    model.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder / "plain")
    model.save_pretrained(folder / "converted", path_initial_model_for_weight_conversion=str(folder / "initial"))
    assert isinstance(model, PeftModel)
    return model.eval()  # type: ignore[return-value]


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_a_converted_adapter_says_what_was_trained(
    init: str,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
    store: ArtifactStore,
    tmp_path: Path,
) -> None:
    base, folder = save_model(tiny_config(LlamaConfig))
    oracle = trained(folder, tmp_path, init)
    digest = store.add(tmp_path / "converted").digest
    rows = [(adapter, prompt) for prompt in prompts[1:4] for adapter in (None, digest)]
    answers = ask(start_engine(folder), [prompt for _, prompt in rows], [adapter for adapter, _ in rows])
    for (adapter, prompt), answer in zip(rows, answers, strict=True):
        check_answer(base if adapter is None else oracle, prompt, answer)
    model = load_model_config(folder).base_model("base", "0" * 64)
    with pytest.raises(AdapterError, match="changed the base weights"):
        load_adapter(tmp_path / "plain", model, torch.float32, lambda name: torch.empty(0))
