"""Matrices of one shape merged into one: linear, magnitude pruning, TIES and DARE, with PEFT's results.

Sources: TIES https://arxiv.org/abs/2306.01708, DARE https://arxiv.org/abs/2311.03099. Not PEFT's own functions: they
draw from the process's random numbers, and importing them takes seconds, for which a running engine would stand still.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multiflora_adapters.mixes.recipe import RANDOM, Combination


def merge(
    combination: Combination,
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    density: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """tensors: of one shape [M, N], float32; weights: one for each; density: the share of values that is kept.

    Semantics: sum of weight * pruned tensor; TIES takes at each place only those with the sign of the unweighted
    sum, and their mean. generator: for what DARE keeps.
    """
    kept = torch.stack([_pruned(combination, tensor, density, generator) for tensor in tensors])
    weighted = kept * torch.tensor(weights).view(-1, 1, 1)
    if combination not in ("ties", "dare_ties"):
        return weighted.sum(dim=0)
    majority = torch.where(kept.sum(dim=0) >= 0, 1, -1)
    agrees = kept.sign() == majority
    return (weighted * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def _pruned(combination: Combination, tensor: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    if density >= 1 or combination == "linear":
        return tensor
    if combination in RANDOM:
        return tensor * torch.bernoulli(torch.full_like(tensor, density), generator=generator) / density
    largest = tensor.abs().reshape(-1).topk(int(density * tensor.numel())).indices
    mask = torch.zeros(tensor.numel())
    mask[largest] = 1
    return tensor * mask.view_as(tensor)
