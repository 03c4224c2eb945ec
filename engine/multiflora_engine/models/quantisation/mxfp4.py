"""MXFP4 as gpt-oss stores its experts, each of them by itself: four-bit floats, of which 32 share an exponent.

Source of the format: transformers' integrations/mxfp4.py, and the OCP Microscaling specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_engine.models.quantisation.packing import E2M1, NIBBLES, look_up_nibbles
from multiflora_engine.models.quantisation.quantised_tensor import IntegerRows, QuantisedTensor
from multiflora_engine.models.quantisation.settings import Mxfp4Settings
from multiflora_kernels.linear.quantised import IntegerForm

_EXPONENT_BIAS = 127
_GROUP = 32


@dataclass(frozen=True)
class Mxfp4Tensor(QuantisedTensor):
    """`_blocks`: uint8 [N, K / 32, 16], the low half of a byte first. `_scales`: uint8 [N, K / 32], exponents.

    Semantics: W[n, k] = q[n, k] * 2^(scale[n, k // 32] - 127).
    """

    settings: Mxfp4Settings

    @property
    def shape(self) -> tuple[int, int]:
        shape = self.part("_blocks").shape
        if len(shape) != 3 or 0 in shape:
            raise self.damaged("_blocks", f"has the shape {list(shape)}; it has to have three dimensions")
        return shape[0], shape[1] * _GROUP

    def check(self) -> None:
        outputs, inputs = self.shape
        self.expect("_blocks", ("U8",), (outputs, inputs // _GROUP, _GROUP // 2))
        self.expect("_scales", ("U8",), (outputs, inputs // _GROUP))

    def pieces(self) -> Iterator[torch.Tensor]:
        blocks, exponents, table = self.read("_blocks"), self.read("_scales"), torch.tensor(E2M1)
        for first, end in self.row_ranges():
            values = look_up_nibbles(blocks[first:end], table, low_first=True)
            values *= _powers(exponents[first:end].int() - _EXPONENT_BIAS)[..., None]
            yield values.flatten(1)

    @property
    def form(self) -> IntegerForm:
        """Exactly: a group's scale is a power of two."""
        return IntegerForm(4, _GROUP, table=E2M1)

    def integers(self) -> Iterator[IntegerRows]:
        blocks, exponents = self.read("_blocks"), self.read("_scales")
        for first, end in self.row_ranges():
            codes = look_up_nibbles(blocks[first:end], NIBBLES, low_first=True).flatten(1)
            yield IntegerRows(codes, _powers(exponents[first:end].int() - _EXPONENT_BIAS), None)


def _powers(exponents: torch.Tensor) -> torch.Tensor:
    """Float32 of two."""
    return torch.ldexp(torch.ones(exponents.shape), exponents)
