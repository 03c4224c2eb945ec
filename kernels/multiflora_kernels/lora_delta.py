"""A linear with its adapters inside a CUDA graph: the shrink runs beside the base product, the expand in the consumer.

Owns which work overlaps and what is left for whoever reads the product. Knows no layers.

Why: in a graph a small launch costs more than the bytes of one adapter. At Llama-3.1-8B's shapes, rank 16, bf16, a
layer has 4 products; a shrink reads 0.13 to 0.46 MB of A per adapter, an expand 0.13 to 0.92 MB of B. One launch takes
about 2 to 3 us from edge to edge (1.3 us of it before the first byte), 4 x 2 x 32 of them 0.5 to 0.8 ms of a step of
about 4.7 ms; 84 MB take 0.02 ms.
- The shrink needs x alone, as the base product does: it runs on a second stream. The product of a few rows does not
  fill all processors and waits for memory: at small N the shrink is hidden, at large N both share the bandwidth.
- The expand of gate and up (two thirds of B's bytes) goes into the activation: the same items, tile x columns, so that
  tokens of one adapter share what is read of B; y is neither read nor written once more.
- The expands of o and down go into the residual norm, a program per token, which must see the whole row. It reads
  rank x H of B on one processor: 131 KB at rank 16, about 2 us at 64 KB in flight, whatever N is; beside it a launch of
  its own takes 2.5 us and, for 64 adapters, 2 us for 8.4 MB. At rank 64 it is 7 us against 2.5 + 8 us for 64 adapters:
  the fold still wins for many adapters and loses about 4 us for one, which is the rarer case.
- The expand of q, k and v goes into RoPE and the KV write, as that of gate and up into the activation: an item is a
  tile and a few heads. Where heads do not turn as a whole (partial rotation) or one of the three has no site, it keeps
  a launch of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from .linear import linear
from .lora import LoraSegments, lora_linear_
from .lora_launch import MAX_SITES, expand_triton_, shrink_triton, shrunk_empty
from .lora_site import LoraSite
from .lora_tiles import LoraTiles


@dataclass(frozen=True)
class LoraDelta:
    """The adapters' share of a product y [T, N], shrunk to rank values; the consumer of y adds it as it reads y.

    values: float32 [splits, T, sites, max_rank]. sites[i] acts on columns[i] of y; none has magnitudes.
    """

    values: torch.Tensor
    sites: tuple[LoraSite, ...]
    columns: tuple[tuple[int, int], ...]
    tiles: LoraTiles

    def add_to_(self, y: torch.Tensor) -> None:
        """The expand as a launch of its own."""
        expand_triton_(y, self.values, self.sites, self.columns, self.tiles, None)


def linear_with_lora(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    sites: Sequence[LoraSite | None],
    columns: Sequence[tuple[int, int]],
    segments: LoraSegments,
) -> tuple[torch.Tensor, LoraDelta | None]:
    """(y, what is still to be added to y). x: [T, K], weight: [N, K]; the rest as for `lora_linear_`.

    Only a graph leaves something to be added; elsewhere, and with DoRA, which scales all of y, y is complete.
    """
    present = [(site, span) for site, span in zip(sites, columns, strict=True) if site is not None]
    tiles = segments.tiles
    if tiles is None or not tiles.is_static or not 0 < len(present) <= MAX_SITES:
        y = linear(x, weight, bias)
        lora_linear_(y, x, sites, columns, segments, bias)
        return y, None
    touched, spans = zip(*present, strict=True)
    y, values = _shrink_beside(x, weight, bias, touched, tiles)
    if any(site.magnitude is not None for site in touched):
        expand_triton_(y, values, touched, spans, tiles, bias)
        return y, None
    return y, LoraDelta(values, touched, spans, tiles)


def _shrink_beside(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, sites: Sequence[LoraSite], tiles: LoraTiles
) -> tuple[torch.Tensor, torch.Tensor]:
    """(base product, rank values). The memory of both belongs to the current stream, which waits for the other."""
    values = shrunk_empty(x, sites, tiles)
    if x.device.type != "cuda":
        shrink_triton(x, sites, tiles, values)
        return linear(x, weight, bias), values
    current, side = torch.cuda.current_stream(x.device), _side_stream(x.device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        shrink_triton(x, sites, tiles, values)
    y = linear(x, weight, bias)
    current.wait_stream(side)
    return y, values


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
