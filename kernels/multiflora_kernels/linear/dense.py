"""The dense product of a layer, y = x W^T + bias, for the few rows of a decode step as well as the many of a prefill.

Does not know what the rows are. W stays in the checkpoint's layout: no packed copy doubles the memory.
"""

from __future__ import annotations

import struct
from functools import cache

import torch
import torch.nn.functional as F

from multiflora_kernels.linear.narrow import MAX_NATIVE_ROWS, narrow_linear
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.runtime.native import library, native_function

MAX_DOT_ROWS = 14 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2
"""Up to here, dot products with the rows of W are faster than broadcasting W against transposed rows, of which a vector
is as full with one as with all: of AVX-512 sixteen."""


def linear_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x: [T, K], weight: [N, K], bias: [N]. Semantics: y[t] = weight @ x[t] + bias; returns [T, N]."""
    return F.linear(x, weight, bias)


_ARGUMENTS = struct.Struct("3q 5q q")
"""LinearArgs of native/linear.cpp."""


@cache
def _widens_bfloat16() -> bool:
    """Whether torch's products of bfloat16 are slower than those of float32 here, about ten times."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and library() is not None


class DenseWeight:
    """A `LinearWeight` that is one tensor [N, K] of the model's dtype."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        # What the native kernel asks of W is asked once, not at every product.
        is_near = tensor.device.type == "cpu" and tensor.is_contiguous()
        self._suits_native = is_near and tensor.dtype == torch.float32
        self._is_widened = is_near and tensor.dtype == torch.bfloat16 and _widens_bfloat16()

    @property
    def shape(self) -> tuple[int, int]:
        return self.tensor.shape[0], self.tensor.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def matmul(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x: [T, K], bias: [N]. Returns contiguous [T, N]. See `linear_reference`."""
        if self._is_widened and x.dim() == 2:
            return narrow_linear(x, NarrowMatrix(self.tensor), bias)
        if not (
            self._suits_native
            and x.dim() == 2
            and 0 < x.shape[0] <= MAX_NATIVE_ROWS
            and x.dtype == torch.float32
            and x.stride(1) == 1
            and (bias is None or bias.dtype == torch.float32)
        ):
            return F.linear(x, self.tensor, bias)
        native = native_function("multiflora_linear", "pl")
        if native is None:
            return F.linear(x, self.tensor, bias)
        (rows, k), columns = x.shape, self.tensor.shape[0]
        y = torch.empty((rows, columns))
        arguments = _ARGUMENTS.pack(
            y.data_ptr(), x.data_ptr(), 0 if bias is None else bias.data_ptr(),
            rows, columns, k, x.stride(0), columns, self.tensor.data_ptr(),
        )  # fmt: skip
        native(arguments, rows <= MAX_DOT_ROWS)
        return y

    def rows(self, first: int, end: int) -> DenseWeight:
        """A view of these rows."""
        return DenseWeight(self.tensor[first:end])

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        """[end - first, K], a view."""
        return self.tensor[first:end]
