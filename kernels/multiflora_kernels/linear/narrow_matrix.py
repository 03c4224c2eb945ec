"""How a matrix of 4, 8 or 16 bits lies in memory, and what its codes stand for. Knows no products."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

INPUTS = 32
"""Of a block: groups are a multiple, and rows of 4 bits."""


@dataclass(frozen=True)
class NarrowMatrix:
    """W [N, K]. Semantics: W[n, k] = (code[n, k] - zero[n, g]) * scale[n, g], g = k // group_size, in float32.

    Where code is what codes stand for: themselves, the values of a table, or floats of 8 bits.

    codes: bfloat16 [N, K], the values themselves; int8 [N, K]; or uint8 [N, K / 2] of four bits: blocks of 32 inputs,
    whose byte i holds code i in its low half and code 16 + i in its high one. Rows are contiguous.
    scales: float32 [N, G], None: 1. zeros: int8 [N, G], None: 0, of four bits 8 but with a table.
    table: float32 [16], of four bits. float_type: of which int8 codes are the bits, E4M3 or E5M2, all finite.
    sums: int32 [N], of each row's int8 codes, where products with unsigned bytes may be asked for; None: not kept.
    """

    codes: torch.Tensor
    scales: torch.Tensor | None = None
    zeros: torch.Tensor | None = None
    table: torch.Tensor | None = None
    float_type: torch.dtype | None = None
    sums: torch.Tensor | None = None

    @property
    def bits(self) -> int:
        return 4 if self.codes.dtype == torch.uint8 else 8 * self.codes.element_size()

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1] * (2 if self.bits == 4 else 1)

    @property
    def group_size(self) -> int:
        return self.shape[1] // (1 if self.scales is None else self.scales.shape[1])

    def rows(self, first: int, end: int) -> NarrowMatrix:
        """Views."""
        scales = None if self.scales is None else self.scales[first:end]
        zeros = None if self.zeros is None else self.zeros[first:end]
        sums = None if self.sums is None else self.sums[first:end]
        return replace(self, codes=self.codes[first:end], scales=scales, zeros=zeros, sums=sums)

    def with_sums(self) -> NarrowMatrix:
        """The same with the sums of its codes, which are int8."""
        return replace(self, sums=self.codes.sum(1, dtype=torch.int32))


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [n, K] below 16 -> uint8 [n, K / 2] as `NarrowMatrix` has it; K is a multiple of 32."""
    halves = codes.reshape(len(codes), -1, 2, INPUTS // 2)
    return (halves[:, :, 0] | (halves[:, :, 1] << 4)).flatten(1)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack_nibbles`."""
    blocks = packed.view(len(packed), -1, INPUTS // 2)
    return torch.stack([blocks & 15, blocks >> 4], dim=2).flatten(1)
