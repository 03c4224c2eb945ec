"""Products with few rows of activations by the processor's instructions for narrow values: bfloat16 pairs, byte quads.

Knows what is compiled for this machine. Does not know when a product pays: those who measure do.
"""

from __future__ import annotations

import torch

from multiflora_kernels.linear.narrow import arguments
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.runtime.native import has_native, native_function, pointer

_MAX_DOT_ROWS = 8
"""Up to here vectors run over the inputs; above, over the rows of x, transposed."""

_VECTOR_BYTES = 64
"""Of AVX-512: rows of W fill whole ones."""

_MOST_INPUTS = 65536
"""Of which products of a code of 8 bits without a sign and one with a sign fit 32 bits."""


def multiplies_bfloat16(w: NarrowMatrix) -> bool:
    """Whether `bfloat16_product` can be made with it on this machine."""
    return has_native("multiflora_bfloat16_dots") and w.bits == 16 and _fills_vectors(w)


def bfloat16_product(x: torch.Tensor, w: NarrowMatrix) -> torch.Tensor:
    """x: [T, K] float32. Semantics: y[t] = bfloat16(W @ bfloat16(x[t])), sums in float32; returns float32 [T, N]."""
    x, y = x if x.stride(1) == 1 else x.contiguous(), torch.empty((len(x), w.shape[0]))
    native = native_function("multiflora_bfloat16_dots", "pl")
    assert native is not None, "see multiplies_bfloat16"
    if len(x):
        native(arguments(y, x, w, None), len(x) <= _MAX_DOT_ROWS)
    return y


def multiplies_bytes(w: NarrowMatrix) -> bool:
    """Whether `byte_product` can be made with it on this machine."""
    has_sums = w.sums is not None and w.shape[1] <= _MOST_INPUTS
    return has_sums and has_native("multiflora_byte_dots") and _fills_vectors(w)


def byte_product(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None, largest: int) -> torch.Tensor:
    """x: [T, K] float32 with contiguous rows, bias: [N] float32, largest: of x's codes, at most 127. Returns float32
    [T, N], see `integer_linear`."""
    y = torch.empty((len(x), w.shape[0]))
    native = native_function("multiflora_byte_dots", "pllp")
    assert native is not None, "see multiplies_bytes"
    if len(x):
        native(arguments(y, x, w, bias), len(x) <= _MAX_DOT_ROWS, largest, pointer(w.sums))
    return y


def _fills_vectors(w: NarrowMatrix) -> bool:
    return w.codes.is_contiguous() and w.shape[1] * w.bits // 8 % _VECTOR_BYTES == 0
