"""Shapes of an attention kernel's work: how many queries and keys at once, for a model's heads and a kind of card.

Knows nothing of sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_kernels.attention.quantised_cache import bytes_per_head
from multiflora_kernels.runtime.triton import power_of_two


@dataclass(frozen=True)
class Tile:
    """How one kernel is compiled and fed.

    rows: queries x heads of one kv group in a tile. keys: of one pass of its loop. wide: keys of a pass over keys that
    all rows see, which needs no masks; None: no such loop, a second pipeline is not worth it where items are short.
    stages: table lookups and tiles are two loads of which one waits for the other, so that n tiles in flight take
    2n + 1. min_steps: passes that an item should have before its keys are split. occupancy: programs a multiprocessor
    holds.
    """

    rows: int
    keys: int
    wide: int | None
    warps: int
    stages: int
    min_steps: int
    occupancy: int

    @property
    def step(self) -> int:
        """Split ranges have multiples of so many keys."""
        return self.wide or self.keys


@dataclass(frozen=True)
class AttentionHeads:
    """Shapes and dtype of the attention of one model."""

    q_heads: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype
    reads_codes: bool = False  # keys and values are in 8 bits (see quantised_cache.py)

    @property
    def group(self) -> int:
        return self.q_heads // self.kv_heads

    @property
    def entry_bytes(self) -> int:
        """Of one token's keys, or values, in one kv head. Codes of all types take as much as those of int8."""
        return bytes_per_head(self.head_size, torch.int8 if self.reads_codes else self.dtype)


def short_tile(heads: AttentionHeads, capability: int) -> Tile:
    """For up to rows / group queries of a sequence: decode. Bound by memory.

    Tensor cores idle whatever the tile, so rows are the fewest that they take. Two tiles of keys and values in flight
    for each of three (sm_90) or two (sm_80) resident programs are 190 or 130 KB, several times what latency x bandwidth
    asks of a multiprocessor; four warps keep 64 keys x 128 in 128 registers.
    """
    rows = max(16, power_of_two(heads.group))
    if heads.dtype == torch.float32:
        return Tile(rows, 16 if heads.reads_codes else 32, None, warps=8, stages=3, min_steps=4, occupancy=2)
    keys = 64 if heads.head_size <= 128 else 32
    warps, occupancy = (4 if rows <= 32 else 8), (3 if capability >= 90 else 2)
    return Tile(rows, keys, None, warps, stages=5, min_steps=128 // keys, occupancy=occupancy)


def long_tile(heads: AttentionHeads, capability: int) -> Tile:
    """For more queries than that: prefill. Bound by tensor cores.

    128 rows use each key that is read often enough for L2. On sm_90 wgmma takes 64 rows a warp group, and 128 keys a
    pass halve the times that scores wait for products; masks cost registers, so masked passes are half as wide. These
    are the largest sizes at which Triton 3.6 and 3.7 spill no register. Codes become wider in registers, and leave
    fewer to the tile.
    """
    if heads.dtype == torch.float32:
        rows = max(16, power_of_two(heads.group))
        keys = 16 if heads.reads_codes else 32
        return Tile(rows, keys, wide=keys, warps=8, stages=3, min_steps=8, occupancy=2)
    if heads.reads_codes:
        rows = 128 if capability >= 90 and heads.head_size <= 128 else 64
        return Tile(rows, keys=32, wide=32, warps=8, stages=3, min_steps=8, occupancy=1)
    if heads.head_size <= 128:
        narrow = 64 if heads.head_size <= 64 else 32
        keys, wide = (64, 128) if capability >= 90 else (narrow, 64)
        return Tile(128, keys, wide, warps=8, stages=5, min_steps=4, occupancy=1)
    if capability >= 90:
        return Tile(128, keys=32, wide=64, warps=8, stages=3, min_steps=4, occupancy=1)
    return Tile(64, keys=32, wide=32, warps=8, stages=5 if capability == 80 else 3, min_steps=8, occupancy=1)
