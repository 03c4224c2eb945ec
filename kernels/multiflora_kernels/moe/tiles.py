"""Pairs of a token and one of its experts, sorted by expert and cut into tiles, on the device: the host waits for
nothing and knows only how many pairs there are, so that a CUDA graph is right for every choice of the router.

Owns the table by which kernels find their pairs. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_kernels.runtime.triton import KernelVariant, jit_with_varying, power_of_two, tl

TILE_FIELDS = 4
_AT_ONCE = 1024


@dataclass(frozen=True)
class ExpertTiles:
    """The P = T * k pairs of a batch, pair t * k + j that of token t and its expert j; `tile_experts` makes it."""

    order: torch.Tensor  # int32 [P]: pairs expert by expert, those of one in their order
    table: torch.Tensor  # int32 [slots, 4]: first place in `order`, pairs (0: the slot is empty), expert, 0
    rows: int  # pairs of a tile at most
    top_k: int

    @property
    def slots(self) -> int:
        return len(self.table)


@jit_with_varying("pairs")
def _few_kernel(
    order: tl.tensor, table: tl.tensor, experts: tl.tensor, pairs: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Program p: the place of pair p, and slot p, which is a tile if p is the first pair of one."""
    own = tl.program_id(0)
    places = tl.arange(0, BLOCK)
    found = tl.load(experts + places, mask=places < pairs, other=0x7FFFFFFF).to(tl.int32)
    expert = tl.load(experts + own).to(tl.int32)
    same = found == expert
    rank = tl.sum((same & (places < own)).to(tl.int32), 0)
    place = tl.sum((found < expert).to(tl.int32), 0) + rank
    left = tl.sum(same.to(tl.int32), 0) - rank
    tl.store(order + place, own)
    tile = table + own * 4
    tl.store(tile, place)
    tl.store(tile + 1, tl.where(rank % ROWS == 0, tl.minimum(left, ROWS), 0))
    tl.store(tile + 2, expert)


@jit_with_varying("pairs")
def _many_kernel(
    order: tl.tensor, table: tl.tensor, experts: tl.tensor, pairs: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Program e: the places of expert e's pairs, and its tiles.

    With b pairs before it they begin at slot b // ROWS + e: an expert's share is never less than its tiles are, and no
    program need know how many tiles others have. The last of the share may stay empty.
    """
    expert = tl.program_id(0)
    before = tl.full([], 0, tl.int32)
    count = tl.full([], 0, tl.int32)
    for start in tl.range(0, pairs, BLOCK):
        places = start + tl.arange(0, BLOCK)
        found = tl.load(experts + places, mask=places < pairs, other=0x7FFFFFFF).to(tl.int32)
        before += tl.sum((found < expert).to(tl.int32), 0)
        count += tl.sum((found == expert).to(tl.int32), 0)
    seen = before
    for start in tl.range(0, pairs, BLOCK):
        places = start + tl.arange(0, BLOCK)
        found = tl.load(experts + places, mask=places < pairs, other=0x7FFFFFFF).to(tl.int32)
        same = (found == expert).to(tl.int32)
        tl.store(order + seen + tl.cumsum(same, 0) - 1, places, mask=same != 0)
        seen += tl.sum(same, 0)
    first = before // ROWS + expert
    for slot in tl.range(first, (before + count) // ROWS + expert + 1):
        done = (slot - first) * ROWS
        tile = table + slot * 4
        tl.store(tile, before + done)
        tl.store(tile + 1, tl.minimum(tl.maximum(count - done, 0), ROWS))
        tl.store(tile + 2, expert)


def tile_experts(experts: torch.Tensor, num_experts: int, rows: int) -> ExpertTiles:
    """experts: int64 [T, k] contiguous, those of one token all different. rows: of a tile.

    Where pairs are fewer than experts, slots are as few: experts without tokens have none.
    """
    tokens, top_k = experts.shape
    pairs, device = tokens * top_k, experts.device
    is_few = pairs <= num_experts
    slots = pairs if is_few else num_experts + pairs // rows
    order = torch.empty(pairs, dtype=torch.int32, device=device)
    table = torch.empty((slots, TILE_FIELDS), dtype=torch.int32, device=device)
    if is_few:
        _few_kernel[(pairs,)](
            order, table, experts, pairs, ROWS=rows, BLOCK=max(32, power_of_two(num_experts)), num_warps=1
        )
    else:
        _many_kernel[(num_experts,)](order, table, experts, pairs, ROWS=rows, BLOCK=_AT_ONCE, num_warps=4)
    return ExpertTiles(order, table, rows, top_k)


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    types = {"order": "*i32", "table": "*i32", "experts": "*i64", "pairs": "i32"}
    types |= {"ROWS": "constexpr", "BLOCK": "constexpr"}
    for name, kernel, block, warps in (("few", _few_kernel, 256, 1), ("many", _many_kernel, _AT_ONCE, 4)):
        constants = {"ROWS": 16, "BLOCK": block}
        yield KernelVariant(
            f"experts tiles of {name}", kernel, types, constants, frozenset({"pairs"}), {"num_warps": warps}
        )
