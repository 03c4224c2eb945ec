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


_ARGUMENTS = struct.Struct("4q 5q")
"""LinearArgs of native/linear.cpp."""


def _native_fits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    return (
        x.dim() == 2
        and 0 < x.shape[0] <= MAX_NATIVE_ROWS
        and x.dtype == weight.dtype == torch.float32
        and x.stride(1) == 1
        and weight.is_contiguous()
        and (bias is None or bias.dtype == torch.float32)
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x: [T, K], weight: [N, K], bias: [N]. Returns contiguous [T, N]. See `linear_reference`."""
    native = native_function("multiflora_linear", "pl") if x.device.type == "cpu" else None
    if native is None or not _native_fits(x, weight, bias):
        return F.linear(x, weight, bias)
    (rows, k), columns = x.shape, weight.shape[0]
    y = torch.empty((rows, columns))
    arguments = _ARGUMENTS.pack(
        y.data_ptr(), x.data_ptr(), weight.data_ptr(), pointer(bias), rows, columns, k, x.stride(0), columns
    )
    native(arguments, rows <= MAX_DOT_ROWS)
    return y
