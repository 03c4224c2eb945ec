"""A linear weight that is no tensor of the model's dtype: transposed int8 with a scale for each output."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Int8Weight:
    """A `LinearWeight`. Semantics: W[n, k] = scale[n] * stored[k, n]."""

    def __init__(self, weight: torch.Tensor) -> None:
        """weight: [N, K], whose nearest representation this is."""
        self.dtype = weight.dtype
        self.scale = weight.float().abs().amax(1) / 127
        self.stored = (weight.float() / self.scale[:, None]).round().to(torch.int8).T.contiguous()

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.shape[1], self.stored.shape[0]

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes + self.scale.nbytes

    def matmul(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = (x.float() @ self.stored.float()) * self.scale
        return (y if bias is None else y + bias.float()).to(self.dtype)

    def dequantised_rows(self, first: int, end: int) -> torch.Tensor:
        return (self.stored[:, first:end].float() * self.scale[first:end]).T.to(self.dtype)

    def stored_rows(self, first: int, end: int) -> Mapping[str, torch.Tensor]:
        return {"weight_int8": self.stored[:, first:end], "scale": self.scale[first:end]}
