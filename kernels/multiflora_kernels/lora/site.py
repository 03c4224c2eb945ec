"""What a LoRA kernel reads of one linear. The adapters' pool on the device implements it."""

from __future__ import annotations

from typing import Protocol

import torch


class LoraSite(Protocol):
    """One linear (or embedding) that adapters touch: rank rows of all resident adapters, one (offset, rank) per slot.

    a: [R, K] (embedding: [V, R], one row per token id), b: [R, N] with the adapter's scaling folded in; contiguous.
    offsets, ranks: [slots] int32; a slot of rank 0 does not touch this site. magnitude: [slots, N] of DoRA, 1 in the
    rows of adapters without it; None while no resident adapter is DoRA here. max_rank: no adapter has more.
    """

    @property
    def a(self) -> torch.Tensor: ...
    @property
    def b(self) -> torch.Tensor: ...
    @property
    def offsets(self) -> torch.Tensor: ...
    @property
    def ranks(self) -> torch.Tensor: ...
    @property
    def magnitude(self) -> torch.Tensor | None: ...
    @property
    def max_rank(self) -> int: ...
