"""What every op needs of a linear's weight, in whatever form it lies in memory. A new form is one more file here."""

from __future__ import annotations

from typing import Protocol

import torch


class LinearWeight(Protocol):
    """W of y = x W^T + bias. Rows are outputs: those of the linears that a projection stacks follow one another."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): outputs, inputs."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of x and y, and of dequantised rows; how W itself is stored, only the weight knows."""
        ...

    @property
    def nbytes(self) -> int:
        """On the device, scales and all."""
        ...

    def matmul(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x: [T, K], bias: [N]. Semantics: y[t] = W @ x[t] + bias; returns contiguous [T, N]."""
        ...

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        """[end - first, K] of `dtype`: what DoRA's norms and a check of an adapter's copy of the base read."""
        ...
