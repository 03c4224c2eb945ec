"""How the linears of a model are stored: as the settings ask, the checkpoint allows and the device can."""

from __future__ import annotations

from typing import Literal

import torch

from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.quantisation.settings import is_made_at_load, is_weight_only
from multiflora_kernels.linear.bfloat16 import bfloat16_way
from multiflora_kernels.linear.integer_choice import integer_way
from multiflora_kernels.runtime.native import library

Storage = Literal["dense", "bfloat16", "as_stored", "w8a8", "int8_weight_only"]
"""Of linears: in the served dtype; in bfloat16 beside float32; in a checkpoint's own codes, where one layout has them
all; quantised at load, and multiplied with activations in integers, or as they are."""


def choose_storage(
    config: ModelConfig, dtype: str, quantization: str | None, dequantize: bool, device: torch.device
) -> Storage:
    """dtype, quantization, dequantize: the settings."""
    made = quantization if config.quantisation is None and quantization and is_made_at_load(quantization) else None
    if device.type != "cpu":
        if made is not None:
            return "int8_weight_only"
        return "as_stored" if config.quantisation is not None and not dequantize else "dense"
    if made is not None:
        rounds = not is_weight_only(made) and integer_way() is not None
        return "w8a8" if rounds else "int8_weight_only"
    if config.quantisation is not None:
        # Codes are faster than what they stand for where our kernels widen them in registers, and nowhere else.
        return "as_stored" if not dequantize and library() is not None else "dense"
    is_narrow = dtype == "auto" and config.dtype == "bfloat16" and bfloat16_way() is not None
    return "bfloat16" if is_narrow else "dense"
