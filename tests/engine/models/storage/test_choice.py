"""Whether integers are kept follows settings, checkpoint and device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES
from transformers import LlamaConfig

from multiflora_engine.models.config import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.storage import choice
from multiflora_engine.models.storage.choice import Storage, choose_storage
from multiflora_kernels.linear.integer import IntegerWay

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_is_kept_follows_settings_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gptq = load_model_config(FIXTURES / "gptq-4")
    monkeypatch.setattr(choice, "library", lambda: object())
    assert choose_storage(gptq, None, False, CPU) == "as_stored"
    assert choose_storage(gptq, "gptq", False, CPU) == "as_stored"
    assert choose_storage(gptq, None, True, CPU) == "dense"
    assert choose_storage(gptq, None, False, CUDA) == "dense"
    monkeypatch.setattr(choice, "library", lambda: None)
    assert choose_storage(gptq, None, False, CPU) == "dense"


@pytest.mark.parametrize(("way", "of_int8"), [(IntegerWay("native", 4), "w8a8"), (None, "int8_weight_only")])
def test_int8_is_asked_for_by_name_and_served_on_a_cpu(
    way: IntegerWay | None, of_int8: Storage, tiny_config: Any, save_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 rounds activations, too, where products in integers are faster."""
    monkeypatch.setattr(choice, "integer_way", lambda: way)
    _, folder = save_model(tiny_config(LlamaConfig))
    config = load_model_config(folder)
    for name in ("int8", "INT8"):
        assert choose_storage(config, name, False, CPU) == of_int8
    for name in ("int8-weight-only", "int8_weight_only", "int8_per_channel_weight_only"):
        assert choose_storage(config, name, False, CPU) == "int8_weight_only"
    assert choose_storage(config, None, False, CPU) == "dense"
    with pytest.raises(ModelError, match=r"quantization is int8, which is served on a CPU\. Leave it out"):
        choose_storage(config, "int8", False, CUDA)
