"""DoRA's norms, ||W + scaling * B A||, of all inputs or of those that one of several ranks has. Knows no files.

Source: https://arxiv.org/abs/2402.09353.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Squares = dict[str, torch.Tensor]
"""By linear: of each output [out_features] float32, the sum of the squares of its weights."""
SumSquares = Callable[[Squares], Squares]
"""Of the inputs that this rank has -> of all ranks' inputs."""

_CHUNK_ELEMENTS = 4 << 20


def alone(squares: Squares) -> Squares:
    """A `SumSquares` where this rank is the only one."""
    return squares


def row_norm(weight: torch.Tensor, a: torch.Tensor, scaled_b: torch.Tensor) -> torch.Tensor:
    """Semantics: norm[n] = ||W[n] + scaling * B[n] @ A||, in float32 (DoRA, https://arxiv.org/abs/2402.09353).

    weight: [N, K], a: [r, K], scaled_b: [r, N] -> [N] on the host. Works in chunks of rows to bound memory.
    """
    a, scaled_b = a.to(weight.device), scaled_b.to(weight.device)
    step = max(1, _CHUNK_ELEMENTS // weight.shape[1])
    norms = []
    for start in range(0, weight.shape[0], step):
        chunk = slice(start, start + step)
        adapted = torch.addmm(weight[chunk].to(torch.float32), scaled_b[:, chunk].t(), a)
        norms.append(torch.linalg.vector_norm(adapted, dim=1))
    return torch.cat(norms).cpu()


def column_norm(weight: torch.Tensor, a: torch.Tensor, scaled_b: torch.Tensor) -> torch.Tensor:
    """As `row_norm` for an embedding; there PEFT takes the norm over the vocabulary.

    weight: [V, H], a: [r, V], scaled_b: [r, H] -> [H] on the host.
    """
    a, scaled_b = a.to(weight.device), scaled_b.to(weight.device)
    step = max(1, _CHUNK_ELEMENTS // weight.shape[1])
    squares = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for start in range(0, weight.shape[0], step):
        chunk = slice(start, start + step)
        adapted = torch.addmm(weight[chunk].to(torch.float32), a[:, chunk].t(), scaled_b)
        squares += adapted.square().sum(dim=0, dtype=torch.float64)
    return squares.sqrt().to(torch.float32).cpu()
