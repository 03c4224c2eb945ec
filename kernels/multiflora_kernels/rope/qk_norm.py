"""The norms that some models put between projection and rotation. What they are, not how they are computed."""

from __future__ import annotations

from typing import NamedTuple

import torch


class QKNorm(NamedTuple):
    """RMS norms of every query and key head before the rotation (Qwen3, Gemma 3). q, k: [D] weights."""

    q: torch.Tensor
    k: torch.Tensor
    eps: float
