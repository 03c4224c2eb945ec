"""What config.json may say of quantisation, and what is refused before any weight is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES, changed, load, refusal

from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError


@pytest.mark.parametrize(
    ("fixture", "settings", "words"),
    [
        ("gptq-4", {"quant_method": "squeezellm"}, ["SqueezeLLM", "vLLM removed", "awq, ", "gptq"]),
        ("gptq-4", {"quant_method": "aqlm"}, ["quantised (aqlm), which is not served", "unquantised"]),
        ("gptq-4", {"quant_method": 3}, ["quant_method is '3'"]),
        ("gptq-4", {"bits": 5}, ["bits is 5", "2, 3, 4, 8"]),
        ("gptq-4", {"bits": None}, ["bits is missing"]),
        ("gptq-4", {"bits": "4"}, ["bits is '4'"]),
        ("gptq-4", {"group_size": 0}, ["group_size is '0'"]),
        ("gptq-4", {"group_size": 32.0}, ["group_size is '32.0'"]),
        ("gptq-4", {"desc_act": "no"}, ["desc_act is 'no'"]),
        ("gptq-4", {"checkpoint_format": "marlin"}, ["'marlin'", "gptq_v2"]),
        ("gptq-4", {"dynamic": [1]}, ["dynamic has to map"]),
        ("gptq-4", {"dynamic": {"+:(": {}}}, ["is no pattern"]),
        ("gptq-4", {"dynamic": {"x": {"bits": 7}}}, ["dynamic bits is 7"]),
        ("gptq-4", {"modules_in_block_to_quantize": [[3]]}, ["list of names"]),
        ("awq", {"version": "gemv"}, ["'gemv'", "gemm is"]),
        ("awq", {"bits": 8}, ["bits is 8", "served are 4"]),
        ("awq", {"modules_to_not_convert": "lm_head"}, ["modules_to_not_convert", "list of names"]),
    ],
)
def test_refusals_name_the_key(fixture: str, settings: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_model_config(changed(fixture, tmp_path, **settings))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("broken", ["gptq", [1], 7])
def test_a_config_that_is_no_object_is_refused(broken: Any, tmp_path: Path) -> None:
    folder = changed("gptq-4", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": broken}))
    assert "no JSON object" in refusal(folder)


def test_settings_that_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    """As AutoGPTQ wrote them before 2023."""
    folder = changed("gptq-4", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization_config")
    settings.pop("quant_method")
    (folder / "config.json").write_text(json.dumps(config))
    assert "is quantised, but config.json has no quantization_config" in refusal(folder)
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(load(folder).base_weight(name), load(FIXTURES / "gptq-4").base_weight(name))


def test_a_dense_checkpoint_that_config_json_calls_quantised_is_refused(tmp_path: Path) -> None:
    def dense(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "proj" in name]:
            tensors.pop(name)

    assert "none of its tensors is" in refusal(changed("awq", tmp_path, dense))
