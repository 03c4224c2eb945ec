"""A linear with its adapters inside a CUDA graph: the shrink runs beside the base product, the expand in the consumer.

Owns which work overlaps and what is left for the consumer of the product. Knows no layers.

Why: in a graph a small launch costs more than the bytes of one adapter. At Llama-3.1-8B's shapes, rank 16, bf16, a
layer has 4 products; a shrink reads 0.13 to 0.46 MB of A per adapter, an expand 0.13 to 0.92 MB of B. One launch takes
about 2 to 3 us from edge to edge (1.3 us of it before the first byte), 4 x 2 x 32 of them 0.5 to 0.8 ms of a step of
about 4.7 ms; 84 MB take 0.02 ms.
- The shrink needs x alone, as the base product does: it runs on a second stream. The product of a few rows does not
  fill all processors and waits for memory: at small N the shrink is hidden, at large N both share the bandwidth.
- The expand of gate and up (two thirds of B's bytes) goes into the activation: the same items, tile x columns, so that
  tokens of one adapter share what is read of B; y is neither read nor written once more.
- The expands of o and down run on the second stream, too, into memory of their own: shrink and expand take about 6 us,
  the product of o at least 8, that of down 27. Their consumer, the residual norm, adds one more row as it reads its
  others, H float32 values that the L2 still has. (A norm that expanded by itself would read rank x H of B on one
  processor, since it must see the whole row: 131 KB at rank 16, about 2 us, 7 us at rank 64.)
- The expand of q, k and v goes into RoPE and the KV write, as that of gate and up into the activation: an item is a
  tile and a few heads. Where heads are rotated only in part, or one of the three has no site, it keeps a launch of its
  own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from multiflora_kernels.linear.weight import LinearWeight
from multiflora_kernels.lora.batched_lora import LoraSegments, lora_linear_
from multiflora_kernels.lora.launch import (
    MAX_SITES,
    expand_triton,
    expand_triton_,
    shrink_triton,
    shrunk_empty,
)
from multiflora_kernels.lora.site import LoraSite
from multiflora_kernels.lora.tiles import LoraTiles

_USES_SIDE_STREAM = os.environ.get("MULTIFLORA_LORA_STREAM") != "0"
"""Whether LoRA's launches run beside the product, not before it: off for measurements and for a driver that fails."""


@dataclass(frozen=True)
class ShrunkDelta:
    """The adapters' delta of a product y [T, N], shrunk to rank values; the consumer of y adds it as it reads y.

    Semantics, for a token t of slot s and site i over columns[i] = (c0, c1), with r and o the site's rank and offset
    of s: y[t, c0:c1] += sum over splits p of values[p, t, i, :r] @ B_i[o:o+r].
    """

    values: torch.Tensor  # float32 [splits, T, sites, max_rank]; rows of the base and ranks beyond a slot's are garbage
    sites: tuple[LoraSite, ...]  # without magnitudes: DoRA scales all of y, so it cannot be left to a consumer
    columns: tuple[tuple[int, int], ...]  # (first, end) of y for each site
    tiles: LoraTiles

    def add_to_(self, y: torch.Tensor) -> None:
        """The expand as a launch of its own."""
        expand_triton_(y, self.values, self.sites, self.columns, self.tiles, None)


@dataclass(frozen=True)
class FullDelta:
    """The adapters' delta of a product [T, N], complete but not yet added: the consumer does so as it reads both.

    Semantics: y[t] += values[t] for tokens whose slot has a rank at the site.
    """

    values: torch.Tensor  # float32 [T, N], written only in those rows
    site: LoraSite
    tiles: LoraTiles

    def added_to(self, y: torch.Tensor) -> torch.Tensor:
        """y + delta, for a consumer that has no kernel which adds it on the way."""
        slots = self.tiles.row_slots[: len(y)]
        has_rank = (slots >= 0) & (self.site.ranks[slots.clamp(min=0).long()] > 0)
        return torch.where(has_rank[:, None], (y + self.values).to(y.dtype), y)


def completed(y: torch.Tensor, delta: FullDelta | None) -> torch.Tensor:
    """y with what is still to be added to it."""
    return y if delta is None else delta.added_to(y)


def linear_with_lora(
    x: torch.Tensor,
    weight: LinearWeight,
    bias: torch.Tensor | None,
    sites: Sequence[LoraSite | None],
    columns: Sequence[tuple[int, int]],
    segments: LoraSegments,
) -> tuple[torch.Tensor, ShrunkDelta | None]:
    """(y, what is still to be added to y). x: [T, K], weight: [N, K], bias: [N]; the rest as for `lora_linear_`.

    Semantics: y[t] = W @ x[t] + bias, then `lora_linear_reference_` of y and x.

    Only a graph leaves something to be added; elsewhere, and with DoRA, which scales all of y, y is complete.
    """
    present = [(site, span) for site, span in zip(sites, columns, strict=True) if site is not None]
    tiles = segments.tiles
    if tiles is None or not tiles.is_static or not 0 < len(present) <= MAX_SITES:
        y = weight.matmul(x, bias)
        lora_linear_(y, x, sites, columns, segments, bias)
        return y, None
    touched, spans = zip(*present, strict=True)
    # Allocated here, not beside the product: memory of the second stream could be handed out again too early.
    values = shrunk_empty(x, touched, tiles)
    y = _beside(x.device, lambda: shrink_triton(x, touched, tiles, values), lambda: weight.matmul(x, bias))
    if any(site.magnitude is not None for site in touched):
        expand_triton_(y, values, touched, spans, tiles, bias)
        return y, None
    return y, ShrunkDelta(values, touched, spans, tiles)


def linear_with_full_delta(
    x: torch.Tensor, weight: LinearWeight, bias: torch.Tensor | None, site: LoraSite | None, segments: LoraSegments
) -> tuple[torch.Tensor, FullDelta | None]:
    """As `linear_with_lora`, for a product of one site whose consumer adds a complete delta."""
    tiles = segments.tiles
    if site is None or site.magnitude is not None or tiles is None or not tiles.is_static:
        y, delta = linear_with_lora(x, weight, bias, [site], [(0, weight.shape[0])], segments)
        assert delta is None, "only a graph leaves something to be added"
        return y, None
    values = shrunk_empty(x, [site], tiles)
    full = torch.empty((x.shape[0], weight.shape[0]), dtype=torch.float32, device=x.device)

    def work() -> None:
        shrink_triton(x, [site], tiles, values)
        expand_triton(full, values, site, tiles)

    return _beside(x.device, work, lambda: weight.matmul(x, bias)), FullDelta(full, site, tiles)


def _beside(device: torch.device, work: Callable[[], None], product: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `product` returns, `work` done beside it. All memory belongs to the current stream, which waits for the
    other: allocate what `work` writes before."""
    if device.type != "cuda" or not _USES_SIDE_STREAM:
        work()
        return product()
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        work()
    y = product()
    current.wait_stream(side)
    return y


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
