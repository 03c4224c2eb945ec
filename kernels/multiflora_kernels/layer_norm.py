"""Layer norm, alone, after the residual sum before it, and of heads. Knows nothing of layers."""

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


def layer_norm_of_heads(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x: [T, heads, D]; weight, bias: [heads, D], or [D] for all heads. Returns [T, heads, D] of x's dtype, contiguous.

    Semantics: y[t, h] = layer_norm(x[t, h]) with the head's weights (Command R+, StableLM 2); float32 inside, rounded
    once.
    """
    y = F.layer_norm(x.float(), x.shape[-1:], None, None, eps) * weight
    return (y if bias is None else y + bias).to(x.dtype)
