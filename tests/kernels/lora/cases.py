"""What the tests of batched LoRA share: sites with adapters of many ranks, and the loop that says what is right."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

RANKS = [0, 1, 8, 16, 64, 8]


@dataclass
class Site:
    a: torch.Tensor
    b: torch.Tensor
    offsets: torch.Tensor
    ranks: torch.Tensor
    magnitude: torch.Tensor | None = None
    max_rank: int = 128

    def to(self, device: torch.device, dtype: torch.dtype) -> Site:
        """The same on a device, weights in a dtype."""
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        tables = self.offsets.to(device), self.ranks.to(device)
        return Site(self.a.to(device, dtype), self.b.to(device, dtype), *tables, magnitude, self.max_rank)


def make_site(k: int, n: int, ranks=RANKS, dora: bool = False, embedding: bool = False) -> Site:
    """Rank rows in reverse slot order; rows that belong to no slot are NaN."""
    offsets, total = [0] * len(ranks), 3
    for slot in reversed(range(len(ranks))):
        offsets[slot], total = total, total + ranks[slot]
    a, b = torch.randn(total, k) * k**-0.5, torch.randn(total, n)
    a[:3], b[:3] = float("nan"), float("nan")
    magnitude = torch.rand(len(ranks), n) + 0.5 if dora else None
    return Site(
        a.T.contiguous() if embedding else a, b, torch.tensor(offsets).int(), torch.tensor(ranks).int(), magnitude
    )


def loop(y, x, sites, columns, segments, bias=None) -> torch.Tensor:
    out = y.double().clone()
    for begin, end, slot in segments.spans():
        for t in range(begin, end):
            for site, (c0, c1) in zip(sites, columns, strict=True):
                if site is None or site.ranks[slot] == 0:
                    continue
                rows = slice(int(site.offsets[slot]), int(site.offsets[slot] + site.ranks[slot]))
                out[t, c0:c1] += site.b[rows].double().T @ (site.a[rows].double() @ x[t].double())
                if site.magnitude is not None:
                    base = 0.0 if bias is None else bias[c0:c1].double()
                    out[t, c0:c1] = base + site.magnitude[slot].double() * (out[t, c0:c1] - base)
    return out


def stacked(k: int, widths: list[int], **options) -> tuple[list[Site | None], list[tuple[int, int]]]:
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    return [make_site(k, n, **options) for n in widths], list(pairwise(ends))
