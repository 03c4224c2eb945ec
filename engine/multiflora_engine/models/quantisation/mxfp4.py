"""MXFP4 as gpt-oss stores its experts: four-bit floats, of which 32 share an exponent.

Source of the format: transformers' integrations/mxfp4.py, and the OCP Microscaling specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.quantisation.packing import E2M1, unpack_nibbles
from multiflora_engine.models.quantisation.quantised_tensor import QuantisedTensor
from multiflora_engine.models.quantisation.settings import Mxfp4Settings

_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Mxfp4Tensor(QuantisedTensor):
    """`_blocks`: uint8 [E, N, K / 32, 16], the low half of a byte first. `_scales`: uint8 [E, N, K / 32], exponents.
    The dense tensor is [E, K, N], as transformers has it.

    Semantics: W[e, k, n] = q[e, n, k] * 2^(scale[e, n, k // 32] - 127).
    """

    settings: Mxfp4Settings

    @property
    def name(self) -> str:
        return self.module

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.part("_blocks").shape
        if len(shape) != 4 or 0 in shape:
            raise self.damaged("_blocks", f"has the shape {list(shape)}; it has to have four dimensions")
        return shape[0], shape[2] * 32, shape[1]

    def check(self) -> None:
        experts, inputs, outputs = self.shape
        self.expect("_blocks", ("U8",), (experts, outputs, inputs // 32, 16))
        self.expect("_scales", ("U8",), (experts, outputs, inputs // 32))

    def pieces(self) -> Iterator[torch.Tensor]:
        """An expert at a time."""
        blocks, exponents, table = self.read("_blocks"), self.read("_scales"), torch.tensor(E2M1)
        for expert in range(self.shape[0]):
            values = table[unpack_nibbles(blocks[expert], low_first=True)]
            scales = exponents[expert].int() - _EXPONENT_BIAS
            yield torch.ldexp(values, scales[..., None]).flatten(1).T
