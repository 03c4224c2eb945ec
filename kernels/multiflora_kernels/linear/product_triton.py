"""The product of a tile of rows of x with a tile of rows of W, whose values are 4, 8 or 16 bits, in Triton.

Owns how a `NarrowMatrix` is read by kernels. Knows neither where tiles lie nor what becomes of their products.

Why W is the left operand: it is widened in registers, from which tensor cores take that side alone; and a decode step
has few rows of x, which on the right cost 8 columns of them each instead of 64 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch

from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.runtime.codes import decoded
from multiflora_kernels.runtime.triton import dot_dtype, jit, tl

_CODECS = {None: 1, torch.float8_e4m3fn: 2, torch.float8_e5m2: 3}
"""What `decoded` calls codes of 8 bits."""


@dataclass(frozen=True)
class ProductTile:
    """How a product is compiled. rows: of x, columns: of y, so many rows of W; inputs: of one pass over K."""

    rows: int
    columns: int
    inputs: int
    warps: int
    stages: int


DECODE_ROWS, FEW_ROWS, MANY_ROWS = 16, 64, 128


def product_tile(rows: int, dtype: torch.dtype, w: NarrowMatrix, *, has_two: bool = False) -> ProductTile:
    """For so many rows of x of that dtype. The largest sizes that spill no register on sm_80, sm_86 and sm_90.
    has_two: a program keeps two products.

    Up to 16 rows the memory is what counts: a pass takes whole lines of 128 bytes of codes of 8 bits, half of one of 4.
    """
    if dtype == torch.float32:
        return ProductTile(16, 32, 64, 4, 3) if rows <= DECODE_ROWS else ProductTile(64, 32, 32, 4, 2)
    if rows <= DECODE_ROWS:
        return ProductTile(DECODE_ROWS, 64, 128, warps=4, stages=4)
    if rows <= FEW_ROWS:
        return ProductTile(FEW_ROWS, 64, 128, warps=4, stages=3)
    columns = 64 if has_two or w.table is not None else 128
    return ProductTile(MANY_ROWS, columns, 64, warps=8, stages=3)


@jit
def _values(
    codes: tl.tensor, table: tl.tensor, BITS: tl.constexpr, CODEC: tl.constexpr, TABLE: tl.constexpr
) -> tl.tensor:
    """What codes stand for, float32."""
    if TABLE:
        return tl.load(table + codes.to(tl.int32))
    if BITS == 4:
        # The lowest bits of 2**23 count ones; a conversion of integers takes four times as long.
        return (codes.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
    return decoded(codes, CODEC)


@jit
def _scaled(values: tl.tensor, zeros: tl.tensor, scales: tl.tensor) -> tl.tensor:
    """(value - zero) * scale of values [N, C], zeros and scales [N, U] of C / U values each."""
    if scales.shape[1] == 1:
        return (values - zeros) * scales
    apart = tl.reshape(values, (values.shape[0], scales.shape[1], values.shape[1] // scales.shape[1]))
    return tl.reshape((apart - zeros[:, :, None]) * scales[:, :, None], values.shape)


@jit
def product(
    x_rows: tl.tensor, here: tl.tensor, codes: tl.tensor, scales: tl.tensor, zeros: tl.tensor, table: tl.tensor,
    rows: tl.tensor, live: tl.tensor, k_begin: tl.tensor, k_end: tl.tensor, k: tl.tensor,
    BITS: tl.constexpr, CODEC: tl.constexpr, ZEROS: tl.constexpr, TABLE: tl.constexpr, GROUP: tl.constexpr,
    UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """float32 [BLOCK_N, BLOCK_M]: W[rows] @ x.T over the inputs k_begin <= j < k_end, k_begin a multiple of BLOCK_K.

    x_rows: pointers [BLOCK_M] to rows of x, valid where `here`; rows: int64 [BLOCK_N], valid where `live`. GROUP:
    inputs that share a scale; 0: all of a row do, and `row_scales` is the caller's to multiply by. UNIT: inputs of a
    pass that do. Values of groups are rounded to DOT once they are scaled, as dense weights are; codes are exact in it.
    """
    middle = 8.0 if BITS == 4 and not TABLE else 0.0
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    WIDTH: tl.constexpr = BLOCK_K // 2 if BITS == 4 else BLOCK_K
    UNITS: tl.constexpr = BLOCK_K // UNIT
    places = tl.arange(0, WIDTH)
    units = tl.arange(0, UNITS) * UNIT
    stride = k // 2 if BITS == 4 else k
    row_zeros = tl.full((BLOCK_N, 1), middle, dtype=tl.float32)
    if ZEROS and GROUP == 0:
        row_zeros = tl.load(zeros + rows, mask=live, other=0).to(tl.float32)[:, None]
    # Of a block of 32 inputs, byte i of its 16 holds input i and input 16 + i.
    inputs = places // 16 * 32 + places % 16 if BITS == 4 else places
    for start in tl.range(k_begin, k_end, BLOCK_K):
        inside = start + inputs < k_end
        first = start // 2 if BITS == 4 else start
        found = tl.load(
            codes + rows[:, None] * stride + (first + places)[None, :], mask=live[:, None] & inside[None, :], other=0
        )
        x_places = x_rows[None, :] + (start + inputs)[:, None]
        x_inside = inside[:, None] & here[None, :]
        values = tl.load(x_places, mask=x_inside, other=0.0).to(DOT)
        if BITS == 16:
            total = tl.dot(found.to(DOT), values, total, input_precision="ieee")
        else:
            unit_zeros = row_zeros
            unit_scales = tl.full((BLOCK_N, 1), 1.0, dtype=tl.float32)
            if GROUP > 0:
                groups = rows[:, None] * (k // GROUP) + ((start + units) // GROUP)[None, :]
                has_unit = live[:, None] & (start + units < k_end)[None, :]
                unit_scales = tl.load(scales + groups, mask=has_unit, other=0.0)
                unit_zeros = tl.full((BLOCK_N, UNITS), middle, dtype=tl.float32)
                if ZEROS:
                    unit_zeros = tl.load(zeros + groups, mask=has_unit, other=0).to(tl.float32)
            if BITS == 4:
                low = _scaled(_values(found & 15, table, BITS, CODEC, TABLE), unit_zeros, unit_scales)
                high = _scaled(_values(found >> 4, table, BITS, CODEC, TABLE), unit_zeros, unit_scales)
                others = tl.load(x_places + 16, mask=x_inside, other=0.0).to(DOT)
                total = tl.dot(low.to(DOT), values, total, input_precision="ieee")
                total = tl.dot(high.to(DOT), others, total, input_precision="ieee")
            else:
                wide = _scaled(_values(found, table, BITS, CODEC, TABLE), unit_zeros, unit_scales)
                total = tl.dot(wide.to(DOT), values, total, input_precision="ieee")
    return total


def matrix_tensors(w: NarrowMatrix) -> tuple[torch.Tensor | None, ...]:
    """codes, scales, zeros and table as kernels take them."""
    codes = w.codes.view(torch.uint8) if w.bits == 8 else w.codes
    return codes, w.scales, w.zeros, w.table


def product_constants(w: NarrowMatrix, tile: ProductTile, dtype: torch.dtype) -> dict[str, Any]:
    """Of `product`, for x of that dtype."""
    is_grouped = w.scales is not None and w.scales.shape[1] > 1
    return {
        "BITS": min(w.bits, 16),
        "CODEC": _CODECS[w.float_type],
        "ZEROS": w.zeros is not None,
        "TABLE": w.table is not None,
        "GROUP": w.group_size if is_grouped else 0,
        "UNIT": gcd(w.group_size, tile.inputs) if is_grouped else tile.inputs,
        "SCALES": w.scales is not None and not is_grouped,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.inputs,
        "DOT": dot_dtype(dtype),
    }


def launch_options(tile: ProductTile) -> dict[str, int]:
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def matrix_signature(w: NarrowMatrix) -> dict[str, str]:
    """Types of what `matrix_tensors` gives, for the ahead-of-time table."""
    names = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
    return {"codes": names.get(w.codes.dtype, "*u8"), "scales": "*fp32", "zeros": "*i8", "table": "*fp32"}
