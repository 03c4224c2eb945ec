"""Products of activations rounded to integers with a W of 8 bits, in integers where that pays (W8A8).

Source: per-channel weights and per-token activations with dynamic scales, as in LLM.int8 (arXiv:2208.07339). Knows not
which way is the fastest here: integer_choice.py does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from multiflora_kernels.linear.dots import byte_product, multiplies_bytes
from multiflora_kernels.linear.narrow import MAX_NATIVE_ROWS, PRODUCT, arguments, narrow_linear
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.runtime.native import native_function, pointer

Kind = Literal["words", "bytes"]
"""Of activations. words: 16 bits, multiplied by our kernel; bytes: 8 bits, by oneDNN, and few rows by our kernel where
the processor has an instruction for it."""

_MOST_CODE = 32767
_MOST_SUM = 2**31 - 1


def fits_integers(k: int) -> bool:
    """Whether sums of k products of 8 bits fit 32."""
    return 128 * 127 * k <= _MOST_SUM


@dataclass(frozen=True)
class IntegerWay:
    """How products are made: of integers of how many bits, and for how many rows.

    With fewer rows the same rounded activations are multiplied in float32: what a row's product is does not depend on
    the rows beside it, but for the rounding of sums.
    """

    kind: Kind
    least_rows: int

    def largest_code(self, k: int) -> int:
        """Of activations with k inputs: what their type holds, and a sum of k products with W's codes."""
        return 127 if self.kind == "bytes" else min(_MOST_CODE, _MOST_SUM // (128 * k))


def rounded_reference(x: torch.Tensor, largest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x: [T, K] float32. Semantics: scales[t] = max |x[t]| / largest, codes[t] = round(x[t] / scales[t]); returns
    (codes [T, K], scales [T, 1]), both float32. A row of zeros has the scale 0, one that is not finite NaN."""
    peaks = x.abs().amax(1, keepdim=True)
    is_used = peaks >= 1e-30
    scales = torch.where(is_used, peaks / largest, 0.0)
    scales = torch.where(torch.isfinite(peaks), scales, torch.nan)
    codes = torch.where(is_used & torch.isfinite(peaks), x * (largest / peaks), 0.0).round_()
    return codes, scales


def integer_linear(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None, way: IntegerWay) -> torch.Tensor:
    """x: [T, K], w: int8 [N, K] with a scale for each output, bias: [N]. Returns contiguous [T, N] of x's dtype.

    Semantics: y[t] = W @ (codes[t] * scales[t]) + bias, with `rounded_reference` of x in float32.
    """
    rows, k = x.shape
    largest, wide = way.largest_code(k), x.float()
    wide = wide if wide.stride(1) == 1 else wide.contiguous()
    if rows < way.least_rows:
        return narrow_linear(_rounded(wide, largest, way.kind), w, bias).to(x.dtype)
    wide_bias = None if bias is None else bias.float()
    if way.kind == "words":
        y = _word_product(wide, w, wide_bias, largest)
    elif rows <= MAX_NATIVE_ROWS and multiplies_bytes(w):
        y = byte_product(wide, w, wide_bias, largest)
    else:
        y = _torch_product(wide, w, wide_bias, largest)
    return y.to(x.dtype)


def _rounded(x: torch.Tensor, largest: int, kind: Kind) -> torch.Tensor:
    native = native_function("multiflora_round_rows", "pl") if kind == "words" else None
    if native is None:
        codes, scales = rounded_reference(x, largest)
        return codes * scales
    rows, k = x.shape
    y = torch.empty((rows, k))
    if rows:
        native(PRODUCT.pack(y.data_ptr(), x.data_ptr(), 0, rows, 0, k, x.stride(0), k), largest)
    return y


def _word_product(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None, largest: int) -> torch.Tensor:
    native = native_function("multiflora_integer_linear", "pl")
    assert native is not None, "the way was chosen because it is there"
    y = torch.empty((len(x), w.shape[0]))
    if len(x):
        native(arguments(y, x, w, bias), largest)
    return y


def _torch_product(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None, largest: int) -> torch.Tensor:
    assert w.scales is not None, "integers have scales"
    codes, scales = _codes(x, largest)
    return _scaled(torch._int_mm(codes, w.codes.t()), scales, w.scales, bias)


def _codes(x: torch.Tensor, largest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [T, K] and float32 [T, 1], as `rounded_reference` has them."""
    native = native_function("multiflora_round_to_bytes", "plpp")
    if native is None:
        codes, scales = rounded_reference(x, largest)
        return codes.to(torch.int8), scales
    rows, k = x.shape
    codes, scales = torch.empty((rows, k), dtype=torch.int8), torch.empty((rows, 1))
    product = PRODUCT.pack(0, x.data_ptr(), 0, rows, 0, k, x.stride(0), 0)
    native(product, largest, codes.data_ptr(), scales.data_ptr())
    return codes, scales


def _scaled(
    sums: torch.Tensor, row_scales: torch.Tensor, column_scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """sums: int32 [T, N], whose memory the result takes; row_scales: [T, 1], column_scales: [N, 1], bias: [N]."""
    native = native_function("multiflora_scale_sums", "ppp")
    if native is None:
        y = sums.float().mul_(row_scales * column_scales.t())
        return y if bias is None else y.add_(bias)
    (rows, columns), y = sums.shape, sums.view(torch.float32)
    product = PRODUCT.pack(y.data_ptr(), 0, pointer(bias), rows, columns, 0, 0, columns)
    native(product, row_scales.data_ptr(), column_scales.data_ptr())
    return y
