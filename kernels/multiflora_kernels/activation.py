"""Gated activations of the MLP. Knows nothing of the projections around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from .native_library import native_function
from .triton_runtime import KernelVariant, jit, tl

GeluApproximation = Literal["none", "tanh"]

_BLOCK = 1024
_SILU, _GELU, _GELU_TANH = 0, 1, 2


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
    activated = _activated(gate, KIND).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + columns, (activated * value).to(out.dtype.element_ty), mask=inside)


def gate_triton(x: torch.Tensor, kind: int) -> torch.Tensor:
    """x: [T, 2I], rows contiguous; kind: _SILU, _GELU or _GELU_TANH. Returns [T, I]."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, -(-width // _BLOCK))
        _gate_kernel[grid](out, x, width, x.stride(0), KIND=kind, BLOCK=_BLOCK, num_warps=4)
    return out


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    for kind in (_SILU, _GELU, _GELU_TANH):
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


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """x: [T, 2I], gate first. Returns [T, I]. See `silu_and_mul_reference`."""
    if x.device.type == "cuda":
        return gate_triton(x, _SILU)
    fast = _gate_cpu(x, "multiflora_silu_and_mul") if x.device.type == "cpu" else None
    return silu_and_mul_reference(x) if fast is None else fast


def gelu_and_mul(x: torch.Tensor, approximate: GeluApproximation = "none") -> torch.Tensor:
    """x: [T, 2I], gate first. Returns [T, I]. See `gelu_and_mul_reference`; only "tanh" has a native kernel."""
    if x.device.type == "cuda":
        return gate_triton(x, _GELU_TANH if approximate == "tanh" else _GELU)
    native = approximate == "tanh" and x.device.type == "cpu"
    fast = _gate_cpu(x, "multiflora_gelu_tanh_and_mul") if native else None
    return gelu_and_mul_reference(x, approximate) if fast is None else fast
