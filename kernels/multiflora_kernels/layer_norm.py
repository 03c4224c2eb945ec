"""Layer norm, alone and after the residual sum before it. Knows nothing of layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from multiflora_kernels.lora.fused_linear import FullDelta, completed


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x: [..., H] any float dtype, weight, bias: [H]. Returns [..., H] of x's dtype (arXiv:1607.06450).

    Semantics: y = weight * (x - mean(x)) / sqrt(var(x) + eps) + bias; statistics in float32.
    """
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    delta: FullDelta | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual: [T, H]; delta: what is still to be added to x. Returns (normed, x + residual); no input changes."""
    total = completed(x, delta) + residual
    return layer_norm(total, weight, bias, eps), total
