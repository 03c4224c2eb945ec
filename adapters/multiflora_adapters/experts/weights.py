"""LoRA on one linear of all experts of a layer, as kernels read it: rank rows expert by expert, those of an expert
where a table says. Knows PEFT's orders of the values; knows no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from multiflora_adapters.base_model import ExpertLinear
from multiflora_adapters.experts.layout import FusedLora

_RANK_STEP = 16  # kernels work on tiles of 16 rows

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""a [r, in_features], b [r, out_features] with the scaling folded in, magnitude float32 [out_features] of DoRA."""


@dataclass(frozen=True)
class ExpertWeights:
    """One linear's share of an adapter, contiguous (it satisfies the kernels' LoraSite, experts in place of slots).

    Memory follows rank: experts without LoRA have rank 0 and no rows. One more than there are has rank 0, too: that of
    rows of other adapters.
    """

    a: torch.Tensor  # [sum of ranks, in_features]
    b: torch.Tensor  # [sum of ranks, out_features], scaling folded in
    offsets: torch.Tensor  # int32 [experts + 1]: each expert's first row
    ranks: torch.Tensor  # int32 [experts + 1]
    magnitude: torch.Tensor | None  # float32 [experts + 1, out_features], 1 where there is none; None without DoRA
    max_rank: int  # a multiple of 16 that no expert's rank exceeds

    @property
    def tensors(self) -> list[torch.Tensor]:
        parts = (self.a, self.b, self.offsets, self.ranks, self.magnitude)
        return [tensor for tensor in parts if tensor is not None]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The same in other memory: move gives it for each tensor."""
        magnitude = None if self.magnitude is None else move(self.magnitude)
        tables = move(self.offsets), move(self.ranks)
        return type(self)(move(self.a), move(self.b), *tables, magnitude, self.max_rank)


def stacked(linear: ExpertLinear, factors: Mapping[int, Factors]) -> ExpertWeights:
    """factors: by the number of the expert; those that have LoRA."""
    experts = sorted(factors)
    ranks = torch.zeros(len(linear.sites) + 1, dtype=torch.int32)
    ranks[experts] = torch.tensor([len(factors[expert][0]) for expert in experts], dtype=torch.int32)
    magnitude = None
    if any(factors[expert][2] is not None for expert in experts):
        magnitude = torch.ones(len(ranks), linear.out_features)
        for expert in experts:
            if (own := factors[expert][2]) is not None:
                magnitude[expert] = own
    shrinks, expands, _ = zip(*(factors[expert] for expert in experts), strict=True)
    return _weights(torch.cat(shrinks), torch.cat(expands), ranks, magnitude)


def unfused(
    fused: FusedLora, served: Sequence[ExpertLinear], a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype
) -> dict[str, ExpertWeights]:
    """a, b: as the file has them (see `FusedLora`). served: the linears as they are served here. By the name of the
    linear, in the serving dtype."""
    experts, rank = fused.num_experts, fused.rank
    inner = a.view(experts, rank, a.shape[1])
    outer = b.view(b.shape[0], rank, experts).permute(2, 1, 0)
    shrinks, expands = (outer, inner) if fused.is_swapped else (inner, outer)
    expands = expands.to(torch.float32) * fused.scaling
    ranks = torch.tensor([*[rank] * experts, 0], dtype=torch.int32)
    part = served[0].sites[0].part
    if part is not None and part.columns is not None:
        shrinks = shrinks[..., slice(*part.columns)]
    kept = shrinks.reshape(experts * rank, -1).to(dtype).contiguous()
    found, first = {}, 0
    for whole, linear in zip(fused.linears, served, strict=True):
        own = expands[..., first : first + whole.out_features]
        if (order := linear.sites[0].row_order) is not None:
            own = own[..., torch.tensor(order)]
        first += whole.out_features
        found[linear.name] = _weights(kept, own.reshape(experts * rank, -1).to(dtype).contiguous(), ranks, None)
    return found


def _weights(a: torch.Tensor, b: torch.Tensor, ranks: torch.Tensor, magnitude: torch.Tensor | None) -> ExpertWeights:
    offsets = (ranks.cumsum(0) - ranks).to(torch.int32)
    highest = -(-int(ranks.max()) // _RANK_STEP) * _RANK_STEP
    return ExpertWeights(a, b, offsets, ranks, magnitude, highest)
