"""The dense product of a layer, y = x W^T + bias, for the few rows of a decode step as well as the many of a prefill.

Does not know what the rows are. W stays in the checkpoint's layout: no packed copy doubles the memory.
"""

from __future__ import annotations

import struct

import torch
import torch.nn.functional as F

from multiflora_kernels.runtime.native import native_function, pointer

MAX_NATIVE_ROWS = 64
"""Above, torch's BLAS is as fast; below, it leaves a third of the processor idle (32 rows: 66 of 90 GFLOP/s a core)."""

MAX_DOT_ROWS = 2
"""Up to here, dot products with the rows of W are faster than broadcasting W against transposed rows."""


def linear_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x: [T, K], weight: [N, K], bias: [N]. Semantics: y[t] = weight @ x[t] + bias; returns [T, N]."""
    return F.linear(x, weight, bias)


_ARGUMENTS = struct.Struct("3q 5q q")
"""LinearArgs of native/linear.cpp."""


class DenseWeight:
    """A `LinearWeight` that is one tensor [N, K] of the model's dtype."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        # What the native kernel asks of W is asked once, not at every product.
        self._suits_native = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()

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
            y.data_ptr(), x.data_ptr(), pointer(bias), rows, columns, k, x.stride(0), columns, self.tensor.data_ptr()
        )  # fmt: skip
        native(arguments, rows <= MAX_DOT_ROWS)
        return y

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        """[end - first, K], a view."""
        return self.tensor[first:end]
