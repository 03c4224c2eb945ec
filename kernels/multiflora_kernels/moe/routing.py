"""Which experts each token goes to, and with what weights. Knows nothing of what experts compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Routing:
    """T tokens and the k experts of each; `route` makes it."""

    experts: torch.Tensor  # int64 [T, k], those of one token all different
    weights: torch.Tensor  # float32 [T, k], of their results


def route(logits: torch.Tensor, top_k: int, *, is_normalised: bool) -> Routing:
    """logits: [T, E] of the router.

    Semantics: p = softmax(logits[t]) in float32; the k experts of the highest p, weighted by p, which is_normalised
    divides by their sum (Switch Transformers, arXiv:2101.03961; Mixtral, arXiv:2401.04088).
    """
    weights, experts = torch.topk(torch.softmax(logits.float(), dim=-1), top_k, dim=-1)
    return Routing(experts, weights / weights.sum(-1, keepdim=True) if is_normalised else weights)
