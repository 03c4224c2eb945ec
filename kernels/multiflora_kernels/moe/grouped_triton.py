"""Products of all experts of a layer in one launch, in Triton: a program is a tile of one expert's pairs and some rows
of its weights, which are dense, or of 4 and 8 bits as those of any linear.

x is read where it lies, by the pairs of a tile, and y is written pair by pair: nothing is moved to be sorted. What
follows a product is done on its way out: the gate of gate and up, or the router's weight of down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from multiflora_kernels.activation import CLAMPED_SWIGLU, SILU, clamped_gated, gated
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.linear.narrow_triton import meta_matrix
from multiflora_kernels.linear.product_triton import (
    launch_options,
    matrix_signature,
    matrix_tensors,
    product,
    product_constants,
    product_tile,
)
from multiflora_kernels.moe.tiles import ExpertTiles
from multiflora_kernels.runtime.triton import KernelVariant, jit, jit_with_varying, tl

_NO_GATE = -1


@dataclass(frozen=True)
class ExpertLinears:
    """One linear, or several stacked, of all E experts. order: of the inputs, as of `QuantisedWeight`; None: theirs."""

    matrix: NarrowMatrix  # [E * N, K], expert by expert
    bias: torch.Tensor | None  # [E, N]
    num_experts: int
    order: torch.Tensor | None = None  # int64 [K]

    @property
    def columns(self) -> int:
        """N."""
        return self.matrix.shape[0] // self.num_experts


@dataclass(frozen=True)
class ExpertGate:
    """kind: SILU, GELU or GELU_TANH; or CLAMPED_SWIGLU, which has the two numbers of `clamped_swiglu`."""

    kind: int
    alpha: float = 0.0
    limit: float = 0.0


def tile_rows(pairs: int, linears: ExpertLinears, dtype: torch.dtype) -> int:
    """By how many pairs an expert has on average."""
    return product_tile(-(-pairs // linears.num_experts), dtype, linears.matrix).rows


@jit
def _scaled_and_biased(
    total: tl.tensor, scales: tl.tensor, bias: tl.tensor, rows: tl.tensor, live: tl.tensor, SCALES: tl.constexpr,
    BIAS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """total: [N, M], of the weights' rows `rows` [N]: times each one's scale, where they have one, plus its bias."""
    if SCALES:
        total = total * tl.load(scales + rows, mask=live, other=0.0)[:, None]
    if BIAS:
        total = total + tl.load(bias + rows, mask=live, other=0.0).to(tl.float32)[:, None]
    return total


@jit_with_varying("share")
def _experts_kernel(
    y: tl.tensor, x: tl.tensor, order: tl.tensor, table: tl.tensor, codes: tl.tensor, scales: tl.tensor,
    zeros: tl.tensor, values: tl.tensor, bias: tl.tensor, weights: tl.tensor, columns: tl.tensor, k: tl.tensor,
    x_stride: tl.tensor, share: tl.tensor, alpha: tl.tensor, limit: tl.tensor, GATE: tl.constexpr, BIAS: tl.constexpr,
    WEIGHTED: tl.constexpr, BITS: tl.constexpr, CODEC: tl.constexpr, ZEROS: tl.constexpr, TABLE: tl.constexpr,
    GROUP: tl.constexpr, UNIT: tl.constexpr, SCALES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """y: [P, columns]; program (n, i): BLOCK_N columns of the pairs of slot i. Row p is of row p // share of x."""
    tile = table + tl.program_id(1) * 4
    count = tl.load(tile + 1)
    if count == 0:
        return
    places = tl.arange(0, BLOCK_M)
    here = places < count
    pairs = tl.load(order + tl.load(tile) + places, mask=here, other=0)
    x_rows = x + (pairs // share).to(tl.int64) * x_stride
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = column < columns
    HALVES: tl.constexpr = 1 if GATE < 0 else 2
    rows = tl.load(tile + 2).to(tl.int64) * (columns * HALVES) + column
    dtype: tl.constexpr = y.dtype.element_ty
    total = product(
        x_rows, here, codes, scales, zeros, values, rows, live, 0, k, k, BITS, CODEC, ZEROS, TABLE, GROUP, UNIT,
        BLOCK_M, BLOCK_N, BLOCK_K, DOT,
    )  # fmt: skip
    total = _scaled_and_biased(total, scales, bias, rows, live, SCALES, BIAS)
    if GATE >= 0:
        rows += columns
        up = product(
            x_rows, here, codes, scales, zeros, values, rows, live, 0, k, k, BITS, CODEC, ZEROS, TABLE, GROUP, UNIT,
            BLOCK_M, BLOCK_N, BLOCK_K, DOT,
        )  # fmt: skip
        up = _scaled_and_biased(up, scales, bias, rows, live, SCALES, BIAS)
        if GATE == 3:
            total = clamped_gated(total, up, alpha, limit, dtype).to(tl.float32)
        else:
            total = gated(total, up, GATE, dtype).to(tl.float32)
    if WEIGHTED:
        total = total * tl.load(weights + pairs, mask=here, other=0.0)[None, :]
    target = y + pairs.to(tl.int64)[None, :] * columns + column[:, None]
    tl.store(target, total.to(dtype), mask=live[:, None] & here[None, :])


def experts_linear_triton(
    x: torch.Tensor,
    linears: ExpertLinears,
    tiles: ExpertTiles,
    *,
    has_row_for_token: bool,
    gate: ExpertGate | None = None,
    adds_bias: bool = True,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """x: [T, K] if has_row_for_token, else [P, K] pair by pair. Returns y [P, N] of x's dtype, with a gate [P, N / 2].

    Semantics, for pair p with expert e: y[p] = W_e @ x[row of p] + bias_e, then the gate of its first half with its
    second, then times weights[p]: float32 [P]. Summed in float32; what is gated is rounded to x's dtype first.
    """
    if linears.order is not None:
        x = x.index_select(1, linears.order)
    matrix, pairs = linears.matrix, len(tiles.order)
    columns = linears.columns if gate is None else linears.columns // 2
    y = torch.empty((pairs, columns), dtype=x.dtype, device=x.device)
    tile = product_tile(tiles.rows, x.dtype, matrix, has_two=gate is not None)
    _experts_kernel[(-(-columns // tile.columns), tiles.slots)](
        y, x, tiles.order, tiles.table, *matrix_tensors(matrix), linears.bias, weights, columns, matrix.shape[1],
        x.stride(0), tiles.top_k if has_row_for_token else 1, gate.alpha if gate else 0.0, gate.limit if gate else 0.0,
        GATE=gate.kind if gate else _NO_GATE, BIAS=adds_bias and linears.bias is not None,
        WEIGHTED=weights is not None, **product_constants(matrix, tile, x.dtype), **launch_options(tile),
    )  # fmt: skip
    return y


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: dense experts, and those of few bits with biases, as gpt-oss has them."""
    for kind, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        dense = NarrowMatrix(torch.empty((8 * 4096, 4096), dtype=dtype, device="meta"))
        for rows in {"bf16": (16, 64, 128), "fp16": (128,), "fp32": (16, 64)}[kind]:
            yield _variant(f"gated {kind}", dense, dtype, rows, SILU, has_bias=False)
            yield _variant(f"weighted {kind}", dense, dtype, rows, _NO_GATE, has_bias=False)
    for rows in (16, 64, 128):
        for name, gate in (("mxfp4 g32", CLAMPED_SWIGLU), ("int4 g128", SILU), ("int8", SILU)):
            matrix = meta_matrix(name, 8 * 4096)
            yield _variant(f"{name} gated bf16", matrix, torch.bfloat16, rows, gate, has_bias=True)
        matrix = meta_matrix("mxfp4 g32", 8 * 4096)
        yield _variant("mxfp4 g32 weighted bf16", matrix, torch.bfloat16, rows, _NO_GATE, has_bias=True)


def _variant(
    name: str, matrix: NarrowMatrix, dtype: torch.dtype, rows: int, gate: int, *, has_bias: bool
) -> KernelVariant:
    tile = product_tile(rows, dtype, matrix, has_two=gate >= 0)
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
    constants: dict[str, Any] = {"GATE": gate, "BIAS": has_bias, "WEIGHTED": gate < 0}
    constants |= product_constants(matrix, tile, dtype)
    matrix_types = matrix_signature(matrix)
    matrix_types["values"] = matrix_types.pop("table")
    return KernelVariant(
        f"experts {name} rows={tile.rows}",
        _experts_kernel,
        {"y": f"*{kind}", "x": f"*{kind}", "order": "*i32", "table": "*i32"}
        | matrix_types
        | {"bias": f"*{kind}", "weights": "*fp32"}
        | dict.fromkeys(("columns", "k", "x_stride", "share"), "i32")
        | {"alpha": "fp32", "limit": "fp32"}
        | dict.fromkeys(constants, "constexpr"),
        constants,
        unaligned=frozenset({"share"}),
        options=launch_options(tile),
    )
