"""PiSSA, OLoRA, CorDA and LoRA-GA change the base in training; what PEFT converts says the same on the plain base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model, preprocess_loraga
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.report import AdapterError
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import load_adapter
from multiflora_engine.models.configuration.reading import load_model_config

LORA = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "down_proj"]}
FROM_DATA: dict[str, dict[str, Any]] = {
    "corda": {"corda_config": CordaConfig(corda_method="kpm")},
    "lora_ga": {"lora_ga_config": LoraGAConfig()},
}


def prepare(init: str, model: Any, config: LoraConfig) -> None:
    """What PEFT asks for before it makes the adapter: activations for CorDA, gradients for LoRA-GA."""
    texts = torch.randint(1, model.config.vocab_size, (4, 1, 24))
    if init == "corda":
        preprocess_corda(model, config, run_model=lambda: [model(text) for text in texts])
    elif init == "lora_ga":
        preprocess_loraga(model, config, lambda: [model(text, labels=text).loss.backward() for text in texts])


def trained(base: Path, folder: Path, init: str) -> PreTrainedModel:
    """The model as it was trained, saved converted in `folder`/converted and unconverted in `folder`/plain."""
    torch.manual_seed(4)
    config = LoraConfig(**LORA, init_lora_weights=init, **FROM_DATA.get(init, {}))
    start = AutoModelForCausalLM.from_pretrained(base)
    prepare(init, start, config)
    model = get_peft_model(start, config)
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


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # LoRA-GA's own
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"])
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
