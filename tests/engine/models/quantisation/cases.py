"""A fixture that a test may damage, and what the loader says of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from multiflora_engine.models.config import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.weights import ModelWeights

FIXTURES = Path(__file__).parent / "fixtures"
Tensors = dict[str, torch.Tensor]


def load(folder: Path) -> ModelWeights:
    return load_weights(folder, load_model_config(folder), torch.float32, torch.device("cpu"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


def changed(name: str, folder: Path, tensors: Callable[[Tensors], Any] | None = None, **settings: Any) -> Path:
    """A copy of a fixture with other tensors, and other keys in its quantization_config (None: without the key)."""
    copy = folder / "model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(FIXTURES / name, copy)
    if tensors is not None:
        found = load_file(copy / "model.safetensors")
        tensors(found)
        save_file(found, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    quantisation = {**config["quantization_config"], **settings}
    config["quantization_config"] = {key: value for key, value in quantisation.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(config))
    return copy
