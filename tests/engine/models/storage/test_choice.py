"""Whether integers are kept follows settings, checkpoint and device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES
from transformers import LlamaConfig

from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.storage import choice
from multiflora_engine.models.storage.choice import Storage, choose_storage
from multiflora_kernels.linear.bfloat16 import BFloat16Way
from multiflora_kernels.linear.integer import IntegerWay

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_is_kept_follows_settings_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gptq = load_model_config(FIXTURES / "gptq-4")
    monkeypatch.setattr(choice, "library", lambda: object())
    assert choose_storage(gptq, "auto", None, False, CPU) == "as_stored"
    assert choose_storage(gptq, "auto", "gptq", False, CPU) == "as_stored"
    assert choose_storage(gptq, "auto", None, True, CPU) == "dense"
    assert choose_storage(gptq, "auto", None, False, CUDA) == "as_stored"
    assert choose_storage(gptq, "auto", None, True, CUDA) == "dense"
    monkeypatch.setattr(choice, "library", lambda: None)
    assert choose_storage(gptq, "auto", None, False, CPU) == "dense"
    assert choose_storage(gptq, "auto", None, False, CUDA) == "as_stored", "its kernels need no C++ compiler"


@pytest.mark.parametrize(("way", "of_int8"), [(IntegerWay("words", 4), "w8a8"), (None, "int8_weight_only")])
def test_int8_is_asked_for_by_name(
    way: IntegerWay | None, of_int8: Storage, tiny_config: Any, save_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 rounds activations, too, where products in integers are faster: on some CPUs."""
    monkeypatch.setattr(choice, "integer_way", lambda: way)
    _, folder = save_model(tiny_config(LlamaConfig))
    config = load_model_config(folder)
    for name in ("int8", "INT8"):
        assert choose_storage(config, "auto", name, False, CPU) == of_int8
    for name in ("int8-weight-only", "int8_weight_only", "int8_per_channel_weight_only"):
        assert choose_storage(config, "auto", name, False, CPU) == "int8_weight_only"
    assert choose_storage(config, "auto", None, False, CPU) == "dense"
    for name in ("int8", "int8-weight-only"):
        assert choose_storage(config, "auto", name, False, CUDA) == "int8_weight_only"


@pytest.mark.parametrize(
    ("way", "dtype", "checkpoint", "expected"),
    [
        (BFloat16Way(4), "auto", "bfloat16", "bfloat16"),
        (BFloat16Way(None), "auto", "bfloat16", "bfloat16"),
        (None, "auto", "bfloat16", "dense"),
        (BFloat16Way(4), "float32", "bfloat16", "dense"),
        (BFloat16Way(4), "bfloat16", "bfloat16", "dense"),
        (BFloat16Way(4), "auto", "float32", "dense"),
    ],
)
def test_a_checkpoint_in_bfloat16_stays_so_where_that_is_no_slower(
    way: BFloat16Way | None, dtype: str, checkpoint: str, expected: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "bfloat16_way", lambda: way)
    config = replace(load_model_config(FIXTURES / "gptq-4"), quantisation=None, dtype=checkpoint)
    assert choose_storage(config, dtype, None, False, CPU) == expected
    assert choose_storage(config, dtype, None, False, CUDA) == "dense"
