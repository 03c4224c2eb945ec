"""RMS norm, alone and fused with the residual sum before it. Knows nothing of layers."""

from __future__ import annotations

import torch

from .native_library import native_function


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x: [..., H] any float dtype, weight: [H]. Returns [..., H] of x's dtype (arXiv:1910.07467).

    Semantics: y = weight * x / sqrt(mean(x^2) + eps); statistics in float32, rounded to x's dtype before the weight
    is applied, as the models were trained.
    """
    wide = x.float() if x.dtype != torch.float64 else x
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual: [T, H]. Semantics: residual' = x + residual; returns (rms_norm(residual'), residual')."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


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
    return _rms_norm_cpu(x, weight, eps) if x.device.type == "cpu" else rms_norm_reference(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual: [T, H]. Returns (normed, x + residual); neither input changes. See `add_rms_norm_reference`."""
    op = _add_rms_norm_cpu if x.device.type == "cpu" else add_rms_norm_reference
    return op(x, residual, weight, eps)
