"""Activations of the MLP, gated or not. Knows nothing of the projections around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from multiflora_kernels.lora.fused_linear import ShrunkDelta
from multiflora_kernels.lora.launch import (
    DTYPES,
    MAX_PROGRAMS,
    TORCH_DTYPES,
    kernel_variant,
)
from multiflora_kernels.lora.tiles import DECODE_TILE
from multiflora_kernels.lora.triton import rows_delta
from multiflora_kernels.runtime.native import native_function
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    dot_dtype,
    jit,
    jit_with_varying,
    power_of_two,
    tl,
)

GeluApproximation = Literal["none", "tanh"]

_BLOCK = 1024
SILU, GELU, GELU_TANH, CLAMPED_SWIGLU = range(4)
"""What kernels call the gates."""


def silu_and_mul_reference(x: torch.Tensor) -> torch.Tensor:
    """x: [T, 2I]. Semantics: y = silu(x[:, :I]) * x[:, I:]; returns [T, I] (SwiGLU, arXiv:2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def gelu_and_mul_reference(x: torch.Tensor, approximate: GeluApproximation) -> torch.Tensor:
    """x: [T, 2I]. Semantics: y = gelu(x[:, :I]) * x[:, I:]; returns [T, I] (GEGLU, arXiv:2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate=approximate) * value


@jit
def _activated(gate: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """silu, gelu or tanh-approximated gelu of a float32 block."""
    if KIND == 0:
        return gate / (1.0 + tl.exp(-gate))
    if KIND == 1:
        return 0.5 * gate * (1.0 + tl.math.erf(gate * 0.7071067811865476))
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    return gate / (1.0 + tl.exp(-2.0 * inner))


@jit
def _gate_kernel(
    out: tl.tensor, x: tl.tensor, width: tl.tensor, x_stride: tl.tensor, KIND: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """out: [T, I] contiguous, x: [T, 2I]; program (t, c) makes BLOCK columns of row t. Float32 inside."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + row * x_stride + width + columns, mask=inside, other=0.0).to(tl.float32)
    # Rounded in between, as the reference stores it, so that both give the same values.
    activated = _activated(gate, KIND).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + columns, (activated * value).to(out.dtype.element_ty), mask=inside)


def gate_triton(x: torch.Tensor, kind: int) -> torch.Tensor:
    """x: [T, 2I], rows contiguous; kind: SILU, GELU or GELU_TANH. Returns [T, I]."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, -(-width // _BLOCK))
        _gate_kernel[grid](out, x, width, x.stride(0), KIND=kind, BLOCK=_BLOCK, num_warps=4)
    return out


@jit
def gated(gate: tl.tensor, value: tl.tensor, KIND: tl.constexpr, DTYPE: tl.constexpr) -> tl.tensor:
    """activated(gate) * value of float32 blocks, each rounded to DTYPE first, as if it had been stored."""
    activated = _activated(gate.to(DTYPE).to(tl.float32), KIND).to(DTYPE).to(tl.float32)
    return (activated * value.to(DTYPE).to(tl.float32)).to(DTYPE)


@jit
def clamped_gated(
    gate: tl.tensor, value: tl.tensor, alpha: tl.tensor, limit: tl.tensor, DTYPE: tl.constexpr
) -> tl.tensor:
    """`clamped_swiglu` of float32 blocks, each rounded to DTYPE first."""
    gate = tl.minimum(gate.to(DTYPE).to(tl.float32), limit)
    value = tl.minimum(tl.maximum(value.to(DTYPE).to(tl.float32), -limit), limit)
    return (gate / (1.0 + tl.exp(-alpha * gate)) * (value + 1.0)).to(DTYPE)


@jit_with_varying("items")
def _gate_lora_kernel(
    out: tl.tensor, x: tl.tensor, h: tl.tensor, tiles: tl.tensor, offsets0: tl.tensor, offsets1: tl.tensor,
    b0: tl.tensor, b1: tl.tensor, ranks0: tl.tensor, ranks1: tl.tensor, width: tl.tensor, x_stride: tl.tensor,
    max_rank: tl.tensor, h_split: tl.tensor, items: tl.tensor, KIND: tl.constexpr, TILE: tl.constexpr,
    TOKEN_N: tl.constexpr, ROWS_N: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """out: [T, I] contiguous, x: [T, 2I] without the adapters' delta; an item is a tile and TOKEN_N columns of out."""
    dtype: tl.constexpr = x.dtype.element_ty
    blocks = tl.cdiv(width, TOKEN_N)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        begin = item % blocks * TOKEN_N
        tile = tiles + item // blocks * 5
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        used = slot >= 0
        rank0 = tl.load(ranks0 + slot, mask=used, other=0)
        rank1 = tl.load(ranks1 + slot, mask=used, other=0)
        gate_b = b0 + tl.load(offsets0 + slot, mask=used, other=0).to(tl.int64) * width
        value_b = b1 + tl.load(offsets1 + slot, mask=used, other=0).to(tl.int64) * width
        out_tile = out + first.to(tl.int64) * width
        x_tile = x + first.to(tl.int64) * x_stride
        h_tile = h + first.to(tl.int64) * 2 * max_rank
        if count == 1:
            columns = begin + tl.arange(0, TOKEN_N)
            inside = columns < width
            gate = tl.load(x_tile + columns, mask=inside, other=0.0).to(tl.float32)
            value = tl.load(x_tile + width + columns, mask=inside, other=0.0).to(tl.float32)
            splits = tl.arange(0, PADDED).to(tl.int64)[:, None] * h_split
            for r in tl.range(0, tl.maximum(rank0, rank1), 16, num_stages=2):
                # One loop for both halves, so that what it reads of their weights is on its way together.
                rows = r + tl.arange(0, 16)
                places = rows.to(tl.int64)[:, None] * width + columns[None, :]
                shared = tl.arange(0, PADDED)[:, None] < SPLITS
                gates = tl.load(gate_b + places, mask=(rows < rank0)[:, None] & inside[None, :], other=0.0)
                values = tl.load(value_b + places, mask=(rows < rank1)[:, None] & inside[None, :], other=0.0)
                at = h_tile + splits + rows[None, :]
                gate_h = tl.sum(tl.load(at, mask=shared & (rows < rank0)[None, :], other=0.0), axis=0)
                value_h = tl.sum(tl.load(at + max_rank, mask=shared & (rows < rank1)[None, :], other=0.0), axis=0)
                gate += tl.sum(gates.to(tl.float32) * gate_h[:, None], axis=0)
                value += tl.sum(values.to(tl.float32) * value_h[:, None], axis=0)
            tl.store(out_tile + columns, gated(gate, value, KIND, dtype), mask=inside)
        elif count > 1:
            tokens = tl.arange(0, TILE)
            here = tokens < count
            x_rows = x_tile + tokens.to(tl.int64)[:, None] * x_stride
            h_rows = h_tile + tokens.to(tl.int64)[:, None] * 2 * max_rank
            for start in range(begin, tl.minimum(width, begin + TOKEN_N), ROWS_N):
                columns = start + tl.arange(0, ROWS_N)
                inside = columns < width
                both = here[:, None] & inside[None, :]
                gates = rows_delta(
                    h_rows, gate_b, here, rank0, columns, inside, width, h_split, TILE, 16, ROWS_N, SPLITS, DOT
                )
                values = rows_delta(
                    h_rows + max_rank, value_b, here, rank1, columns, inside, width, h_split, TILE, 16, ROWS_N, SPLITS,
                    DOT,
                )  # fmt: skip
                gates += tl.load(x_rows + columns[None, :], mask=both, other=0.0).to(tl.float32)
                values += tl.load(x_rows + width + columns[None, :], mask=both, other=0.0).to(tl.float32)
                places = out_tile + tokens.to(tl.int64)[:, None] * width + columns[None, :]
                tl.store(places, gated(gates, values, KIND, dtype), mask=both)


def _lora_form(dtype: torch.dtype) -> dict[str, int]:
    form = {"TILE": DECODE_TILE, "TOKEN_N": 256, "ROWS_N": 64, "num_warps": 4}
    return form | ({"num_stages": 1} if dtype == torch.float32 else {"num_stages": 2, "maxnreg": 128})


def gate_lora_triton(x: torch.Tensor, delta: ShrunkDelta, kind: int) -> torch.Tensor:
    """As `gate_triton` of x [T, 2I] with `delta` added: both halves have a site, the tiles cover all rows."""
    rows, width = x.shape[0], x.shape[1] // 2
    (gate, value), h, tiles, form = delta.sites, delta.values, delta.tiles, _lora_form(x.dtype)
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    items = tiles.max_tiles * -(-width // form["TOKEN_N"])
    _gate_lora_kernel[(min(items, MAX_PROGRAMS),)](
        out, x, h, tiles.table, gate.offsets, value.offsets, gate.b, value.b, gate.ranks, value.ranks, width,
        x.stride(0), h.shape[3], h.stride(0), items, KIND=kind, SPLITS=h.shape[0], PADDED=power_of_two(h.shape[0]),
        DOT=dot_dtype(x.dtype), **form,
    )  # fmt: skip
    return out


def _gate(x: torch.Tensor, delta: ShrunkDelta | None, kind: int) -> torch.Tensor:
    if delta is None:
        return gate_triton(x, kind)
    if len(delta.sites) == 2:
        return gate_lora_triton(x, delta, kind)
    # An adapter of one half only: rare enough to pay a launch of its own.
    delta.add_to_(x)
    return gate_triton(x, kind)


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    for dtype in ("bf16", "fp32"):
        pointers = dict.fromkeys(["out", "x", "b0", "b1"], f"*{dtype}") | {"h": "*fp32"}
        constants = {"KIND": SILU, "SPLITS": 8, "PADDED": 8, "DOT": DTYPES[dtype]}
        yield kernel_variant(
            f"gate with lora {dtype}", _gate_lora_kernel, pointers, constants | _lora_form(TORCH_DTYPES[dtype])
        )
    for kind in (SILU, GELU, GELU_TANH):
        for dtype in ("bf16", "fp32"):
            yield KernelVariant(
                f"gate kind={kind} {dtype}",
                _gate_kernel,
                {"out": f"*{dtype}", "x": f"*{dtype}", "width": "i32", "x_stride": "i32"}
                | {"KIND": "constexpr", "BLOCK": "constexpr"},
                {"KIND": kind, "BLOCK": _BLOCK},
                options={"num_warps": 4},
            )


def _gate_cpu(x: torch.Tensor, name: str) -> torch.Tensor | None:
    """The native kernel `name`, or None where it does not apply."""
    native = native_function(name, "ppll")
    if native is None or x.dtype != torch.float32 or not x.is_contiguous():
        return None
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=torch.float32)
    native(out.data_ptr(), x.data_ptr(), rows, width)
    return out


def silu_and_mul(x: torch.Tensor, delta: ShrunkDelta | None = None) -> torch.Tensor:
    """x: [T, 2I], gate first; delta: what is still to be added to x. Returns [T, I]. See `silu_and_mul_reference`."""
    if x.device.type == "cuda" or delta is not None:
        return _gate(x, delta, SILU)
    fast = _gate_cpu(x, "multiflora_silu_and_mul") if x.device.type == "cpu" else None
    return silu_and_mul_reference(x) if fast is None else fast


def gelu_and_mul(
    x: torch.Tensor, approximate: GeluApproximation = "none", delta: ShrunkDelta | None = None
) -> torch.Tensor:
    """As `silu_and_mul`. See `gelu_and_mul_reference`; only "tanh" has a native kernel."""
    if x.device.type == "cuda" or delta is not None:
        return _gate(x, delta, GELU_TANH if approximate == "tanh" else GELU)
    native = approximate == "tanh" and x.device.type == "cpu"
    fast = _gate_cpu(x, "multiflora_gelu_tanh_and_mul") if native else None
    return gelu_and_mul_reference(x, approximate) if fast is None else fast


def activate(x: torch.Tensor, kind: Literal["silu", "gelu", "gelu_tanh", "relu"]) -> torch.Tensor:
    """x: [T, I], of an MLP without a gate. Returns [T, I]."""
    if kind == "relu":
        return F.relu(x)
    if kind == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")


def clamped_swiglu(x: torch.Tensor, delta: ShrunkDelta | None = None, *, alpha: float, limit: float) -> torch.Tensor:
    """x: [T, 2I], gate first; delta: what is still to be added to x. Returns [T, I].

    Semantics: y = g * sigmoid(alpha * g) * (v + 1), with g = min(x[:, :I], limit) and v = x[:, I:] between -limit and
    limit (gpt-oss, arXiv:2508.10925).
    """
    if delta is not None:
        delta.add_to_(x)
    gate, value = x.chunk(2, dim=-1)
    gate = gate.clamp(max=limit)
    return gate * torch.sigmoid(alpha * gate) * (value.clamp(-limit, limit) + 1)
