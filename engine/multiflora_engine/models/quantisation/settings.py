"""What a checkpoint's quantisation settings say, method by method, and of which linears they say it. Torch-free.

Knows no tensors: the file of each form does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GptqSettings:
    bits: int
    group_size: int | None  # inputs that share a scale; None: all of an output's
    desc_act: bool  # inputs were quantised out of order, and .g_idx says which group each belongs to
    is_v2: bool  # .qzeros holds zero points as they are; version 1 holds them less one


@dataclass(frozen=True)
class AwqSettings:
    group_size: int | None  # as of GPTQ


@dataclass(frozen=True)
class PackedSettings:
    """Integers of compressed-tensors in 32-bit words."""

    bits: int
    group_size: int | None  # as of GPTQ
    is_symmetric: bool  # there are no zero points


@dataclass(frozen=True)
class Nvfp4Settings:
    """Nothing is left to say."""


@dataclass(frozen=True)
class ScaledSettings:
    dtypes: tuple[str, ...]  # that the weight may have, by safetensors' names
    block: tuple[int, int] | None = None  # outputs and inputs that share a scale
    group_size: int | None = None  # inputs of an output that share a scale; neither: an output's, or all


@dataclass(frozen=True)
class BitsAndBytesSettings:
    """Four bits; each tensor has its own settings beside it."""


@dataclass(frozen=True)
class Mxfp4Settings:
    """Nothing is left to say."""


Settings = (
    GptqSettings | AwqSettings | PackedSettings | Nvfp4Settings | ScaledSettings | BitsAndBytesSettings | Mxfp4Settings
)

# vLLM's names of kernels, which its --quantization takes beside the methods' own.
_KERNELS = {"awq-marlin": "awq", "gptq-marlin": "gptq", "gptq-bitblas": "gptq"}
_WEIGHT_ONLY = ("int8-weight-only", "int8-per-channel-weight-only")
_MADE_AT_LOAD = ("int8", *_WEIGHT_ONLY)


def method_name(text: str) -> str:
    """The method that a value of vLLM's --quantization, or of quant_method, means."""
    name = text.lower().replace("_", "-")
    return _KERNELS.get(name, name)


def is_made_at_load(text: str) -> bool:
    """Whether a value of --quantization asks for what is done to dense weights: the last name is vLLM's."""
    return method_name(text) in _MADE_AT_LOAD


def is_weight_only(text: str) -> bool:
    """Of those: whether it says that activations stay as they are."""
    return method_name(text) in _WEIGHT_ONLY


@dataclass(frozen=True)
class Quantisation:
    """How the linears of one checkpoint are quantised. `read_quantisation` makes it."""

    method: str  # by vLLM's name for --quantization
    default: Settings | None  # of linears that no rule names; None: those are not quantised
    rules: tuple[tuple[re.Pattern[str], Settings | None], ...] = ()  # the first that matches decides

    def of(self, module: str) -> Settings | None:
        """What config.json says of a linear; None: that it is not quantised."""
        for pattern, settings in self.rules:
            if pattern.match(module):
                return settings
        return self.default
