"""Products with a matrix of 4, 8 or 16 bits: widened in registers for few rows, a tile at a time for many.

Owns when which path is taken. Does not know where a matrix's values come from.
"""

from __future__ import annotations

import struct
import threading

import torch
import torch.nn.functional as F

from multiflora_kernels.linear.narrow_matrix import INPUTS, NarrowMatrix, unpack_nibbles
from multiflora_kernels.linear.narrow_triton import narrow_linear_triton
from multiflora_kernels.runtime.native import native_function, pointer
from multiflora_kernels.runtime.triton import runs_kernels

MAX_NATIVE_ROWS = 64
"""Above, torch's BLAS is as fast; below, it leaves a third of the processor idle (32 rows: 66 of 90 GFLOP/s a core)."""

MAX_DOT_ROWS = 12
"""Up to here, rows of W are widened in registers for every four rows of x; above, once for all of them."""

_MAX_DOT_ROWS_OF_SLOW_FORMS = 8
"""Of groups of one block, whose scales take as long as their values, of tables and of floats of 8 bits."""

_TILE_ELEMENTS = 1 << 19
"""Of W, widened at a time for many rows: 2 MiB is little enough for a cache and enough for a product."""

_MANTISSAS = {None: 0, torch.float8_e4m3fn: 3, torch.float8_e5m2: 2}
"""Bits of them."""

_KERNEL_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

_thread = threading.local()

PRODUCT = struct.Struct("3q 5q")
"""Product of native/product.h."""

_ARGUMENTS = struct.Struct(f"{PRODUCT.format} 4q 3q")
"""NarrowArgs of native/narrow.h."""


def widen_reference(w: NarrowMatrix) -> torch.Tensor:
    """W in float32, as `NarrowMatrix` says."""
    codes = unpack_nibbles(w.codes) if w.bits == 4 else w.codes
    if w.table is not None:
        codes = w.table[codes.int()]
    elif w.float_type is not None:
        codes = codes.view(w.float_type)
    if w.scales is None:
        return codes.float()
    groups = codes.float().view(len(codes), w.scales.shape[1], -1)
    if w.zeros is not None or (w.bits == 4 and w.table is None):
        groups -= 8.0 if w.zeros is None else w.zeros[..., None].float()
    return groups.mul_(w.scales[..., None]).flatten(1)


def narrow_linear_reference(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x: [T, K], bias: [N]. Semantics: y[t] = W @ x[t] + bias, all in float32; returns [T, N] of x's dtype."""
    return F.linear(x.float(), widen_reference(w), None if bias is None else bias.float()).to(x.dtype)


def widen(w: NarrowMatrix, out: torch.Tensor | None = None) -> torch.Tensor:
    """See `widen_reference`. out: where the native kernel writes."""
    native = native_function("multiflora_widen_rows", "p") if w.codes.device.type == "cpu" else None
    if native is None:
        return widen_reference(w)
    values = torch.empty(w.shape) if out is None else out
    native(arguments(values, None, w, None))
    return values


def narrow_linear(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See `narrow_linear_reference`. Returns contiguous [T, N]."""
    if runs_kernels(x.device) and x.dtype in _KERNEL_DTYPES:
        return narrow_linear_triton(x, w, bias)
    native = native_function("multiflora_narrow_linear", "pl") if x.device.type == "cpu" else None
    if native is None:
        return narrow_linear_reference(x, w, bias)
    rows, wide_bias = x.shape[0], None if bias is None else bias.float()
    wide = x.float()
    if wide.stride(1) != 1:
        wide = wide.contiguous()
    y = torch.empty((rows, w.shape[0]))
    if rows > MAX_NATIVE_ROWS:
        _multiply_by_tiles_(y, wide, w, wide_bias)
    elif rows > 0:
        is_slow = w.group_size == INPUTS or w.table is not None or w.float_type is not None
        most = _MAX_DOT_ROWS_OF_SLOW_FORMS if is_slow else MAX_DOT_ROWS
        native(arguments(y, wide, w, wide_bias), rows <= most)
    return y.to(x.dtype)


def _multiply_by_tiles_(y: torch.Tensor, x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None) -> None:
    columns, k = w.shape
    step = min(columns, max(INPUTS, _TILE_ELEMENTS // k))
    scratch = _scratch(step * k).view(step, k)
    for first in range(0, columns, step):
        end = min(columns, first + step)
        tile, part = widen(w.rows(first, end), out=scratch[: end - first]).T, y[:, first:end]
        if bias is None:
            torch.mm(x, tile, out=part)
        else:
            torch.addmm(bias[first:end], x, tile, out=part)


def _scratch(count: int) -> torch.Tensor:
    """float32 [count] of this thread: memory that is taken anew costs more than the values written to it."""
    kept: torch.Tensor | None = getattr(_thread, "scratch", None)
    if kept is None or len(kept) < count:
        kept = _thread.scratch = torch.empty(count)
    return kept[:count]


def arguments(y: torch.Tensor, x: torch.Tensor | None, w: NarrowMatrix, bias: torch.Tensor | None) -> bytes:
    """What a native function is told of y = x W^T + bias; tensors must outlive the call."""
    columns, k = w.shape
    rows, stride = (0, 0) if x is None else (x.shape[0], x.stride(0))
    return _ARGUMENTS.pack(
        y.data_ptr(), pointer(x), pointer(bias), rows, columns, k, stride, y.stride(0),
        w.codes.data_ptr(), pointer(w.scales), pointer(w.zeros), pointer(w.table), w.bits, w.group_size,
        _MANTISSAS[w.float_type],
    )  # fmt: skip
