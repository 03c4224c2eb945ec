"""A linear's weight kept in bfloat16 beside activations in float32: products in bfloat16, sums in float32.

Knows whether a processor has instructions for them only by having measured it.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.measuring import SIZE, Seconds, first_row_without_loss, found_once, seconds_by_rows
from multiflora_kernels.linear.narrow import NarrowMatrix, narrow_linear
from multiflora_kernels.runtime.native import library
from multiflora_kernels.runtime.processor import Processor, this_processor

TABLE = "bfloat16_products"
"""Of the machine's cache: what was measured, by what it depends on."""

_MOST_LOSS = 1.05
"""Beside float32, with any number of rows: about what a measurement may be off."""
_LEAST_GAIN = 1.1
"""With the most rows."""


class BFloat16Weight(DenseWeight):
    """A `LinearWeight` [N, K] in bfloat16 of products whose activations are float32.

    Semantics: y[t] = bfloat16(W @ bfloat16(x[t])) + bias, the sum in float32: with any number of rows, so that a row's
    product depends on those beside it by the order of sums alone.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self._matrix = NarrowMatrix(tensor)
        least = bfloat16_rows()
        self._least_rows = 0 if least is None else least

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def matmul(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x: [T, K] float32, bias: [N]. Returns contiguous [T, N]."""
        y = bfloat16_product(x.to(torch.bfloat16), self._matrix, self._least_rows).float()
        return y if bias is None else y.add_(bias)

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        """[end - first, K] float32."""
        return self.tensor[first:end].float()


def bfloat16_product(x: torch.Tensor, w: NarrowMatrix, least_rows: int) -> torch.Tensor:
    """x: [T, K] bfloat16, w: bfloat16 [N, K]. Returns bfloat16 [T, N]."""
    return narrow_linear(x, w) if len(x) < least_rows else F.linear(x, w.codes)


def choose(in_float32: Seconds, by_kernel: Seconds, by_torch: Seconds) -> int | None:
    """From how many rows on torch makes products of bfloat16; None: float32 is faster, somewhere or with the most."""
    least = first_row_without_loss(by_torch, by_kernel)
    if least is None or by_torch[max(by_torch)] * _LEAST_GAIN > in_float32[max(by_torch)]:
        return None
    best = {rows: by_kernel[rows] if rows < least else by_torch[rows] for rows in in_float32}
    return None if any(best[rows] > in_float32[rows] * _MOST_LOSS for rows in best) else least


def can_multiply(processor: Processor, has_library: bool) -> bool:
    """Without an instruction for it torch takes about ten times as long as in float32; without our kernel a product of
    few rows waits for torch."""
    return processor.multiplies_bfloat16 and has_library


@cache
def bfloat16_rows() -> int | None:
    """`choose` for this machine, the same from the first call on: measured once, and looked up from then on."""
    if not can_multiply(this_processor(), library() is not None):
        return None
    rows = found_once(TABLE, _measured_rows)
    return rows if isinstance(rows, int) else None


def _measured_rows() -> int | None:
    wide = torch.randn(SIZE, SIZE)
    narrow, dense = NarrowMatrix(wide.bfloat16()), DenseWeight(wide)

    def seconds(least_rows: int) -> Seconds:
        return seconds_by_rows(lambda x: bfloat16_product(x.bfloat16(), narrow, least_rows).float())

    return choose(seconds_by_rows(dense.matmul), by_kernel=seconds(1 << 30), by_torch=seconds(0))
