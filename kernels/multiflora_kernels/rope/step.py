"""What all layers share in one step of rotation and cache writes. Knows neither heads nor caches."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RopeStep:
    """Where the T tokens of a step stand, and where their keys and values go. The decoder makes one for each step."""

    cos: torch.Tensor  # [P, R/2] float32, rows contiguous, for P positions and R rotated dimensions of a head
    sin: torch.Tensor  # the same
    positions: torch.Tensor  # [T] int64, each below P
    kv_slots: torch.Tensor  # [T] int64: block * block_size + offset in the caches; -1: the row only fills up a batch

    @property
    def rotary(self) -> int:
        """R, how many leading dimensions of each head are rotated."""
        return 2 * self.cos.shape[1]
