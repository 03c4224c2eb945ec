"""`narrow_linear` in Triton: weights are widened in registers on their way to tensor cores, for few rows and for many.

Up to 64 rows one tile holds all of x and the weights are read once; where columns are too few to occupy the card, K is
cut into parts, whose sums a second launch adds in their order. Where it is cut depends on W alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.linear.product_triton import (
    FEW_ROWS,
    ProductTile,
    launch_options,
    matrix_signature,
    matrix_tensors,
    product,
    product_constants,
    product_tile,
)
from multiflora_kernels.runtime.card import device_class
from multiflora_kernels.runtime.triton import KernelVariant, jit_with_varying, tl

_LEAST_PART = 512
"""Inputs: a shorter part costs more to add up than it saves."""
_MOST_PARTS = 16
_PROGRAMS_OF_PROCESSOR = 2
_SUM_COLUMNS = 256


@jit_with_varying("count")
def _narrow_kernel(
    y: tl.tensor, x: tl.tensor, codes: tl.tensor, scales: tl.tensor, zeros: tl.tensor, table: tl.tensor,
    bias: tl.tensor, count: tl.tensor, columns: tl.tensor, k: tl.tensor, x_stride: tl.tensor, part: tl.tensor,
    BIAS: tl.constexpr, BITS: tl.constexpr, CODEC: tl.constexpr, ZEROS: tl.constexpr, TABLE: tl.constexpr,
    GROUP: tl.constexpr, UNIT: tl.constexpr, SCALES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """y: [parts, count, columns]; program (n, m, p): a tile of it, over the inputs of part p."""
    tokens = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    here = tokens < count
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = rows < columns
    k_begin = tl.program_id(2) * part
    total = product(
        x + tokens.to(tl.int64) * x_stride, here, codes, scales, zeros, table, rows.to(tl.int64), live, k_begin,
        tl.minimum(k, k_begin + part), k, BITS, CODEC, ZEROS, TABLE, GROUP, UNIT, BLOCK_M, BLOCK_N, BLOCK_K, DOT,
    )  # fmt: skip
    if SCALES:
        total = total * tl.load(scales + rows, mask=live, other=0.0)[:, None]
    if BIAS:
        total = total + tl.load(bias + rows, mask=live, other=0.0).to(tl.float32)[:, None]
    target = y + tl.program_id(2).to(tl.int64) * count * columns + tokens.to(tl.int64)[None, :] * columns
    tl.store(target + rows[:, None], total.to(y.dtype.element_ty), mask=live[:, None] & here[None, :])


@jit_with_varying("count", "parts")
def _sum_kernel(
    y: tl.tensor, partial: tl.tensor, bias: tl.tensor, count: tl.tensor, columns: tl.tensor, parts: tl.tensor,
    BIAS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """y: [count, columns], partial: [parts, count, columns] float32; program (n, t): BLOCK columns of row t, parts in
    their order."""
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = place < columns
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for index in tl.range(0, parts):
        total += tl.load(partial + (index * count + row) * columns + place, mask=live, other=0.0)
    if BIAS:
        total += tl.load(bias + place, mask=live, other=0.0).to(tl.float32)
    tl.store(y + row * columns + place, total.to(y.dtype.element_ty), mask=live)


def narrow_linear_triton(x: torch.Tensor, w: NarrowMatrix, bias: torch.Tensor | None) -> torch.Tensor:
    """x: [T, K] float32, bfloat16 or float16. See `narrow_linear_reference`; where inputs have groups of scales, scaled
    values are rounded to x's dtype before they are multiplied."""
    if x.stride(1) != 1:
        x = x.contiguous()
    count, (columns, k) = len(x), w.shape
    y = torch.empty((count, columns), dtype=x.dtype, device=x.device)
    if count == 0:
        return y
    tile = product_tile(count, x.dtype, w)
    parts, part = _parts(columns, k, tile, x.device)
    target = y if parts == 1 else torch.empty((parts, count, columns), dtype=torch.float32, device=x.device)
    grid = (-(-columns // tile.columns), -(-count // tile.rows), parts)
    _narrow_kernel[grid](
        target, x, *matrix_tensors(w), bias, count, columns, k, x.stride(0), part,
        BIAS=bias is not None and parts == 1, **product_constants(w, tile, x.dtype), **launch_options(tile),
    )  # fmt: skip
    if parts > 1:
        _sum_kernel[(-(-columns // _SUM_COLUMNS), count)](
            y, target, bias, count, columns, parts, BIAS=bias is not None, BLOCK=_SUM_COLUMNS, num_warps=4
        )
    return y


def _parts(columns: int, k: int, tile: ProductTile, device: torch.device) -> tuple[int, int]:
    """(parts of K, inputs of each)."""
    wanted = 1
    if tile.rows <= FEW_ROWS:
        wanted = _PROGRAMS_OF_PROCESSOR * device_class(device)[0] // -(-columns // tile.columns)
    wanted = max(1, min(wanted, k // _LEAST_PART, _MOST_PARTS))
    part = -(-k // wanted // tile.inputs) * tile.inputs
    return -(-k // part), part


_NARROW = {
    "int4 g128": (4, 128, False, None, None),
    "int4 g32 zeros": (4, 32, True, None, None),
    "mxfp4 g32": (4, 32, False, 16, None),
    "nf4 g64": (4, 64, False, 16, None),
    "int8": (8, 4096, False, None, None),
    "e4m3 g128": (8, 128, False, None, torch.float8_e4m3fn),
    "e4m3": (8, 4096, False, None, torch.float8_e4m3fn),
}
"""By name: bits, group size, zeros, entries of the table, float type; of 4,096 inputs."""


def meta_matrix(name: str, rows: int) -> NarrowMatrix:
    """One of these forms without values, of 4,096 inputs."""
    bits, group, has_zeros, entries, float_type = _NARROW[name]
    device, k = torch.device("meta"), 4096
    groups = rows, k // group
    codes = torch.empty((rows, k * bits // 8), dtype=torch.uint8 if bits == 4 else torch.int8, device=device)
    zeros = torch.empty(groups, dtype=torch.int8, device=device) if has_zeros else None
    table = torch.empty(entries, device=device) if entries else None
    return NarrowMatrix(codes, torch.empty(groups, device=device), zeros, table, float_type)


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: forms that checkpoints have, for each number of rows."""
    for name in _NARROW:
        for dtype in (torch.bfloat16, torch.float32) if name in ("int4 g128", "int8") else (torch.bfloat16,):
            for rows in (16, 64, 128) if dtype == torch.bfloat16 else (16, 64):
                yield _variant(name, dtype, rows)
    for kind in ("bf16", "fp32"):
        yield KernelVariant(
            f"narrow sum {kind}",
            _sum_kernel,
            {"y": f"*{kind}", "partial": "*fp32", "bias": f"*{kind}"}
            | dict.fromkeys(("count", "columns", "parts"), "i32")
            | {"BIAS": "constexpr", "BLOCK": "constexpr"},
            {"BIAS": True, "BLOCK": _SUM_COLUMNS},
            unaligned=frozenset({"count", "parts"}),
            options={"num_warps": 4},
        )


def _variant(name: str, dtype: torch.dtype, rows: int) -> KernelVariant:
    matrix = meta_matrix(name, 4096)
    tile = product_tile(rows, dtype, matrix)
    constants: dict[str, Any] = {"BIAS": True} | product_constants(matrix, tile, dtype)
    kind = "bf16" if dtype == torch.bfloat16 else "fp32"
    return KernelVariant(
        f"narrow {name} {kind} rows={tile.rows}",
        _narrow_kernel,
        {"y": f"*{kind}", "x": f"*{kind}"}
        | matrix_signature(matrix)
        | {"bias": f"*{kind}"}
        | dict.fromkeys(("count", "columns", "k", "x_stride", "part"), "i32")
        | dict.fromkeys(constants, "constexpr"),
        constants,
        unaligned=frozenset({"count"}),
        options=launch_options(tile),
    )
