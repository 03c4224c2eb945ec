"""Gated activations of the MLP. Knows nothing of the projections around them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from .native_library import native_function

GeluApproximation = Literal["none", "tanh"]


def silu_and_mul_reference(x: torch.Tensor) -> torch.Tensor:
    """x: [T, 2I]. Semantics: y = silu(x[:, :I]) * x[:, I:]; returns [T, I] (SwiGLU, arXiv:2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def gelu_and_mul_reference(x: torch.Tensor, approximate: GeluApproximation) -> torch.Tensor:
    """x: [T, 2I]. Semantics: y = gelu(x[:, :I]) * x[:, I:]; returns [T, I] (GEGLU, arXiv:2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate=approximate) * value


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
    fast = _gate_cpu(x, "multiflora_silu_and_mul") if x.device.type == "cpu" else None
    return silu_and_mul_reference(x) if fast is None else fast


def gelu_and_mul(x: torch.Tensor, approximate: GeluApproximation = "none") -> torch.Tensor:
    """x: [T, 2I], gate first. Returns [T, I]. See `gelu_and_mul_reference`; only "tanh" has a native kernel."""
    native = approximate == "tanh" and x.device.type == "cpu"
    fast = _gate_cpu(x, "multiflora_gelu_tanh_and_mul") if native else None
    return gelu_and_mul_reference(x, approximate) if fast is None else fast
