"""The matrix products of Llama 3.1 8B as the library computes them, from one token to a whole prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from gpu.measure import Probe, Row

_BEYOND_L2 = 256 << 20

WEIGHTS: dict[str, tuple[int, int]] = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
"""[N, K] of each."""

TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 2048, 8192)
_MOST_HEAD_TOKENS = 256
"""More rows never want logits at once."""


def gemm_probes(
    device: torch.device,
    weights: dict[str, tuple[int, int]] | None = None,
    tokens: Sequence[int] = TOKENS,
    dtype: torch.dtype = torch.bfloat16,
) -> Iterator[Probe]:
    """Few tokens first, of every weight: those decide how fast decode steps are."""
    for count in tokens:
        for name, shape in (weights or WEIGHTS).items():
            if name != "head" or count <= _MOST_HEAD_TOKENS:
                yield Probe(f"gemm {name}, M={count}", partial(_row, name, shape, count, dtype, device))


def _row(name: str, shape: tuple[int, int], tokens: int, dtype: torch.dtype, device: torch.device) -> Row:
    """On copies of the weight that together are larger than the L2, as those of the layers are."""
    rows, columns = shape
    num_bytes = rows * columns * dtype.itemsize
    copies = -(-_BEYOND_L2 // num_bytes) if device.type == "cuda" else 1
    weights = torch.randn(copies, rows, columns, device=device, dtype=dtype)
    x = torch.randn(tokens, columns, device=device, dtype=dtype)
    out = torch.empty(tokens, rows, device=device, dtype=dtype)
    moved = copies * (num_bytes + x.nbytes + out.nbytes)
    return Row(
        f"gemm {name}",
        f"M={tokens} x{copies}",
        float(moved),
        2.0 * copies * tokens * rows * columns,
        lambda: [F.linear(x, weight) for weight in weights],
    )
