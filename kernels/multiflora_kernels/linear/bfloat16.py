"""A linear's weight kept in bfloat16 beside activations in float32: half the memory, read in half the time.

Knows whether that is faster on a processor, and by which products, only by having measured it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F

from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.dots import bfloat16_product, multiplies_bfloat16
from multiflora_kernels.linear.measuring import SIZE, Seconds, first_row_without_loss, found_once, seconds_by_rows
from multiflora_kernels.linear.narrow import narrow_linear
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.runtime.native import library
from multiflora_kernels.runtime.processor import this_processor

TABLE = "bfloat16_ways"
"""Of the machine's cache: what was measured, by what it depends on."""

_MOST_LOSS = 1.05
"""Beside float32: about what a measurement may be off."""
_LEAST_GAIN = 1.1
"""With the most rows, below which rounding activations is not worth it."""
_FEW_ROWS = 16
"""Up to here, what a product takes is reading the weight."""
_MOST_LOSS_OF_MANY = 1.2
"""With more rows, for half the memory: widening a weight takes as long with a hundred rows as with thousands."""


@dataclass(frozen=True)
class BFloat16Way:
    """rounds_from: activations are rounded to bfloat16, and from so many rows on torch multiplies them; None: they stay
    float32, and the weight is widened to it."""

    rounds_from: int | None


class BFloat16Weight(DenseWeight):
    """A `LinearWeight` [N, K] in bfloat16 of products whose activations are float32.

    Semantics: y[t] = W @ x[t] + bias in float32, as of the same weight in float32. Where the machine's way rounds:
    y[t] = bfloat16(W @ bfloat16(x[t])) + bias, the sum in float32: with any number of rows, so that a row's product
    depends on those beside it by the order of sums alone.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self._matrix = NarrowMatrix(tensor)
        way = bfloat16_way()
        self._rounds_from = None if way is None else way.rounds_from

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def rounds_activations(self) -> bool:
        """To bfloat16; else they stay float32."""
        return self._rounds_from is not None

    def matmul(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x: [T, K] float32, bias: [N]. Returns contiguous [T, N]."""
        if self._rounds_from is None:
            return narrow_linear(x, self._matrix, bias)
        y = _rounded_product(x, self._matrix, self._rounds_from)
        return y if bias is None else y.add_(bias)

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        """[end - first, K] float32."""
        return self.tensor[first:end].float()


def _rounded_product(x: torch.Tensor, w: NarrowMatrix, torch_rows: int) -> torch.Tensor:
    """x: [T, K] float32, w: bfloat16 [N, K], torch_rows: from which on torch multiplies. Returns float32 [T, N]."""
    if len(x) < torch_rows and multiplies_bfloat16(w):
        return bfloat16_product(x, w)
    rounded = x.to(torch.bfloat16)
    return (narrow_linear(rounded, w) if len(x) < torch_rows else F.linear(rounded, w.codes)).float()


def choose(in_float32: Seconds, widened: Seconds, by_kernel: Seconds, by_torch: Seconds) -> BFloat16Way | None:
    """by_kernel, by_torch: of rounded activations, empty where that is no candidate. None: float32 is faster, with few
    rows or by far with many."""
    few = [rows for rows in in_float32 if rows <= _FEW_ROWS]
    if by_torch and by_torch[max(by_torch)] * _LEAST_GAIN <= in_float32[max(by_torch)]:
        # Our kernel, which is for few rows, may be as fast with the most that are measured.
        least = first_row_without_loss(by_torch, by_kernel) or max(by_torch)
        best = {rows: by_kernel[rows] if rows < least else by_torch[rows] for rows in in_float32}
        if all(_ratio(best, in_float32, some) <= _MOST_LOSS for some in (few, best.keys() - few)):
            return BFloat16Way(least)
    is_no_slower = _ratio(widened, in_float32, few) <= _MOST_LOSS
    is_near = _ratio(widened, in_float32, in_float32.keys() - few) <= _MOST_LOSS_OF_MANY
    return BFloat16Way(None) if is_no_slower and is_near else None


def _ratio(seconds: Seconds, others: Seconds, rows: Iterable[int]) -> float:
    """The geometric mean of both ways' ratio: one number of rows may be measured badly on a machine that does more."""
    return statistics.geometric_mean(seconds[one] / others[one] for one in rows)


@cache
def bfloat16_way() -> BFloat16Way | None:
    """`choose` for this machine, the same from the first call on: measured once, and looked up from then on."""
    if library() is None:
        return None
    return _read(found_once(TABLE, lambda: _written(_measured_way())))


def _measured_way() -> BFloat16Way | None:
    wide = torch.randn(SIZE, SIZE)
    narrow = NarrowMatrix(wide.bfloat16())

    def rounded(torch_rows: int) -> Seconds:
        # Without an instruction for it torch takes about ten times as long as in float32.
        if not this_processor().multiplies_bfloat16:
            return {}
        return seconds_by_rows(partial(_rounded_product, w=narrow, torch_rows=torch_rows))

    in_float32, widened = seconds_by_rows(DenseWeight(wide).matmul), seconds_by_rows(partial(narrow_linear, w=narrow))
    return choose(in_float32, widened, by_kernel=rounded(1 << 30), by_torch=rounded(0))


def _written(way: BFloat16Way | None) -> dict[str, object]:
    return {} if way is None else asdict(way)


def _read(found: object) -> BFloat16Way | None:
    """What `_written` made; anything else, which another version or the user may have written, means float32."""
    match found:
        case {"rounds_from": int() | None as rows}:
            return BFloat16Way(rows)
    return None
