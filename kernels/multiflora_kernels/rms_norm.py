"""RMS norm, alone and fused with the residual sum before it. Knows nothing of layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multiflora_kernels.lora.fused_linear import FullDelta
from multiflora_kernels.lora.launch import kernel_variant
from multiflora_kernels.runtime.native import native_function
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    jit,
    jit_with_varying,
    power_of_two,
    tl,
)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x: [..., H] any float dtype, weight: [H]. Returns [..., H] of x's dtype (arXiv:1910.07467).

    Semantics: y = weight * x / sqrt(mean(x^2) + eps); statistics in float32, rounded to the weight's dtype before it is
    applied, as the models were trained: to x's dtype (Llama), or not at all where the weight is float32 (Gemma).
    """
    wide = x.float() if x.dtype != torch.float64 else x
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (weight * normed.to(weight.dtype)).to(x.dtype)


def add_rms_norm_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual: [T, H]. Semantics: residual' = x + residual; returns (rms_norm(residual'), residual')."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


@jit
def _normed(x: tl.tensor, weight: tl.tensor, eps: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """x: [ROWS, BLOCK] float32, zero beyond SIZE; weight: [1, BLOCK]. Rounds to the weight's dtype before it."""
    scale = tl.rsqrt(tl.sum(x * x, axis=1)[:, None] / SIZE + eps)
    return (x * scale).to(weight.dtype).to(tl.float32) * weight.to(tl.float32)


@jit_with_varying("rows")
def _rms_norm_kernel(
    out: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    rows: tl.tensor,
    groups: tl.tensor,
    x_row: tl.tensor,
    x_group: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """out: [rows, SIZE], x: [rows / groups, groups, SIZE]. A program normalises ROWS rows, each read once."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < SIZE)
    scales = tl.load(weight + column, mask=column < SIZE, other=0.0)
    values = tl.load(x + row // groups * x_row + row % groups * x_group + column, mask=inside, other=0.0)
    normed = _normed(values.to(tl.float32), scales, eps, SIZE)
    tl.store(out + row * SIZE + column, normed.to(out.dtype.element_ty), mask=inside)


@jit_with_varying("rows")
def _add_rms_norm_kernel(
    out: tl.tensor,
    total: tl.tensor,
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    rows: tl.tensor,
    x_row: tl.tensor,
    residual_row: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """out, total: [rows, SIZE]. A program sums ROWS rows, rounds and stores the sum, and normalises it."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < SIZE)
    scales = tl.load(weight + column, mask=column < SIZE, other=0.0)
    values = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(residual + row * residual_row + column, mask=inside, other=0.0).to(tl.float32)
    # The sum is normalised as it is stored: the next layer reads the rounded one.
    rounded = values.to(total.dtype.element_ty)
    tl.store(total + row * SIZE + column, rounded, mask=inside)
    normed = _normed(rounded.to(tl.float32), scales, eps, SIZE)
    tl.store(out + row * SIZE + column, normed.to(out.dtype.element_ty), mask=inside)


@jit
def _add_rms_norm_lora_kernel(
    out: tl.tensor, total: tl.tensor, x: tl.tensor, residual: tl.tensor, weight: tl.tensor, delta: tl.tensor,
    row_slots: tl.tensor, ranks: tl.tensor, x_row: tl.tensor, residual_row: tl.tensor, eps: tl.tensor,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """As `_add_rms_norm_kernel`, a row a program, of x with delta [rows, SIZE] added where an adapter has one."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < SIZE
    slot = tl.load(row_slots + row)
    values = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(residual + row * residual_row + column, mask=inside, other=0.0).to(tl.float32)
    scales = tl.load(weight + column, mask=inside, other=0.0)
    rank = tl.load(ranks + slot, mask=slot >= 0, other=0)
    values += tl.load(delta + row * SIZE + column, mask=inside & (rank > 0), other=0.0)
    # x + delta is rounded as a product's result would be, before the residual is added.
    rounded = (values.to(x.dtype.element_ty).to(tl.float32) + before).to(total.dtype.element_ty)
    tl.store(total + row * SIZE + column, rounded, mask=inside)
    normed = _normed(rounded.to(tl.float32), scales, eps, SIZE)
    tl.store(out + row * SIZE + column, normed.to(out.dtype.element_ty), mask=inside)


def _shape(size: int) -> dict[str, int]:
    """One program holds whole rows in registers: at most 32 values of a thread up to a size of 16,384."""
    block = max(16, power_of_two(size))
    rows = max(1, 1024 // block)
    return {"SIZE": size, "BLOCK": block, "ROWS": rows, "num_warps": min(16, max(1, block * rows // 512))}


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As `rms_norm`, for x of any float dtype but float64."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    shape = _shape(x.shape[-1])
    groups, x_group = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
    rows = x.shape[0] * groups
    assert x.stride(-1) == 1, "rows are contiguous"
    if rows:
        grid = (-(-rows // shape["ROWS"]),)
        _rms_norm_kernel[grid](out, x, weight, rows, groups, x.stride(0), x_group, eps, **shape)
    return out


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `add_rms_norm`, for x of any float dtype but float64."""
    rows, size = x.shape
    total = torch.empty((rows, size), dtype=torch.promote_types(x.dtype, residual.dtype), device=x.device)
    out = torch.empty_like(total)
    shape = _shape(size)
    assert x.stride(1) == residual.stride(1) == 1, "rows are contiguous"
    if rows:
        grid = (-(-rows // shape["ROWS"]),)
        _add_rms_norm_kernel[grid](out, total, x, residual, weight, rows, x.stride(0), residual.stride(0), eps, **shape)
    return out, total


def add_rms_norm_lora_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, delta: FullDelta
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `add_rms_norm_triton` of x with `delta` added."""
    rows, size = x.shape
    total = torch.empty((rows, size), dtype=torch.promote_types(x.dtype, residual.dtype), device=x.device)
    out = torch.empty_like(total)
    shape = _shape(size)
    assert x.stride(1) == residual.stride(1) == 1, "rows are contiguous"
    if rows:
        _add_rms_norm_lora_kernel[(rows,)](
            out, total, x, residual, weight, delta.values, delta.tiles.row_slots, delta.site.ranks, x.stride(0),
            residual.stride(0), eps, SIZE=size, BLOCK=shape["BLOCK"], num_warps=shape["num_warps"],
        )  # fmt: skip
    return out, total


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: head sizes, a hidden size that is no power of two, the largest."""
    for dtype in ("bf16", "fp32"):
        for size in (128, 4096, 5120, 16384):
            shape = _shape(size)
            constants = {name: shape[name] for name in ("SIZE", "BLOCK", "ROWS")}
            options = {"num_warps": shape["num_warps"]}
            kinds = dict.fromkeys(constants, "constexpr")
            pointers = dict.fromkeys(("out", "x", "weight"), f"*{dtype}")
            rest = dict.fromkeys(("rows", "groups", "x_row", "x_group"), "i32") | {"eps": "fp32"}
            unaligned = frozenset({"rows", "groups"})
            yield KernelVariant(
                f"rms_norm size={size} {dtype}",
                _rms_norm_kernel,
                pointers | rest | kinds,
                constants,
                unaligned,
                options,
            )
            pointers = dict.fromkeys(("out", "total", "x", "residual", "weight"), f"*{dtype}")
            rest = dict.fromkeys(("rows", "x_row", "residual_row"), "i32") | {"eps": "fp32"}
            yield KernelVariant(
                f"add_rms_norm size={size} {dtype}",
                _add_rms_norm_kernel,
                pointers | rest | kinds,
                constants,
                unaligned,
                options,
            )

    for dtype, size in (("bf16", 4096), ("bf16", 8192), ("fp32", 5120)):
        shape = _shape(size)
        pointers = dict.fromkeys(("out", "total", "x", "residual", "weight"), f"*{dtype}")
        pointers |= {"delta": "*fp32", "row_slots": "*i32", "eps": "fp32"}
        values = {"SIZE": size, "BLOCK": shape["BLOCK"], "num_warps": shape["num_warps"]}
        yield kernel_variant(f"add_rms_norm with lora size={size} {dtype}", _add_rms_norm_lora_kernel, pointers, values)


def _rms_norm_cpu(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    native = native_function("multiflora_rms_norm", "ppplllllf")
    if native is None or x.dtype != torch.float32 or x.dim() not in (2, 3) or x.stride(-1) != 1:
        return rms_norm_reference(x, weight, eps)
    out = torch.empty(x.shape, dtype=torch.float32)
    rows, size = x.shape[0], x.shape[-1]
    groups, group_stride = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
    native(out.data_ptr(), x.data_ptr(), weight.data_ptr(), rows, groups, size, x.stride(0), group_stride, eps)
    return out


def _add_rms_norm_cpu(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    native = native_function("multiflora_add_rms_norm", "pppppllf")
    if native is None or x.dtype != torch.float32 or not (x.is_contiguous() and residual.is_contiguous()):
        return add_rms_norm_reference(x, residual, weight, eps)
    out, total = torch.empty_like(x), torch.empty_like(x)
    native(out.data_ptr(), total.data_ptr(), x.data_ptr(), residual.data_ptr(), weight.data_ptr(), *x.shape, eps)
    return out, total


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x: [T, H] or [T, heads, D] (last dimension normalised; may be a strided view). See `rms_norm_reference`."""
    if x.device.type == "cuda":
        return rms_norm_triton(x, weight, eps)
    return _rms_norm_cpu(x, weight, eps) if x.device.type == "cpu" else rms_norm_reference(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, delta: FullDelta | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual: [T, H]; delta: what is still to be added to x. Returns (normed, x + residual); no input changes.

    See `add_rms_norm_reference`.
    """
    if delta is not None:
        return add_rms_norm_lora_triton(x, residual, weight, eps, delta)
    if x.device.type == "cuda":
        return add_rms_norm_triton(x, residual, weight, eps)
    op = _add_rms_norm_cpu if x.device.type == "cpu" else add_rms_norm_reference
    return op(x, residual, weight, eps)
