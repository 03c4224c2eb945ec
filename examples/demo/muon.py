"""Owns the Muon optimizer (Jordan et al., 2024) for the matrices of the transformer; AdamW takes the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz iteration of Muon
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; matrices of one shape are handled as one stack."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                by_shape[param.shape].append(param)
            for shape, params in by_shape.items():
                update = orthogonalize(torch.stack([self._momentum(param, group["momentum"]) for param in params]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for param, delta in zip(params, update, strict=True):
                    param.add_(delta, alpha=-scale)

    def _momentum(self, param: Tensor, momentum: float) -> Tensor:
        state = self.state[param]
        if "buffer" not in state:
            state["buffer"] = torch.zeros_like(param)
        assert param.grad is not None, "every matrix takes part in the loss"
        state["buffer"].lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(state["buffer"], momentum)


def orthogonalize(x: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly. x: [N, rows, columns] -> same shape."""
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
